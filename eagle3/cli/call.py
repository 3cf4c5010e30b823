"""Calls of other programs: Snakemake, and scripts of the project."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from eagle3.workflow.project import PACKAGE, project_root

# options of Snakemake with which a user chooses what is printed, or wants it planned only
SHOWING = {"--quiet", "-q", "--verbose", "-n", "--dry-run", "--dryrun"}


def call(module: str, arguments: Sequence[str]) -> int:
    """Run `python -m module` with `arguments`, wait for it, and return its exit code.

    The child handles signals: training saves on Ctrl-C, which a terminal sends to both processes.
    SIGTERM is forwarded.
    """
    root = project_root()
    folders = [str(root), str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, folders))}
    command = [sys.executable, "-m", module, *arguments]
    process = subprocess.Popen(command, env=environment)  # noqa: S603 - the user's own command line
    previous_sigint = signal.signal(signal.SIGINT, signal.SIG_IGN)

    def forward(number: int, frame: FrameType | None) -> None:
        process.send_signal(number)

    previous_sigterm = signal.signal(signal.SIGTERM, forward)
    try:
        code = process.wait()
    finally:
        signal.signal(signal.SIGINT, previous_sigint)
        signal.signal(signal.SIGTERM, previous_sigterm)
    return 128 - code if code < 0 else code  # death by a signal, as shells report it


def snakemake_arguments(
    target: str,
    configfiles: Sequence[str],
    cores: str | None,
    profile: str | None,
    dry_run: bool,
    extra: Sequence[str],
) -> list[str]:
    """The arguments of Snakemake for the rule `target` of the project.

    `cores` None: all cores of this machine, or as many jobs as the profile says. `extra`: further
    options of Snakemake. Only a dry run prints why each job runs.
    """
    root = project_root()
    arguments = ["--snakefile", str(root / "Snakefile")]
    if cores is not None or profile is None:
        arguments += ["--cores", cores or "all"]
    if profile is not None:
        bundled = root / "profiles" / profile  # from any directory without its own
        is_bundled = bundled.is_dir() and not Path(profile).is_dir()
        arguments += ["--profile", str(bundled) if is_bundled else profile]
    words = {word.split("=")[0] for word in extra}
    if dry_run:
        arguments += ["--dry-run"]
    elif words.isdisjoint(SHOWING):
        arguments += ["--quiet", "reason"]  # which may list thousands of files
    # --configfile takes a list, which `--` ends
    arguments += ["--configfile", *configfiles] if configfiles else []
    return [*arguments, *extra, "--", target]
