"""Other programs that the command becomes for a while: Snakemake, and scripts of the project."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from types import FrameType

from eagle3.workflow.project import PACKAGE, project_root


def call(module: str, words: Sequence[str]) -> int:
    """Run `python -m module` with `words` until it ends; its exit code.

    A signal is its own to answer: training saves on Ctrl-C, which a terminal sends to both.
    """
    root = project_root()
    folders = [str(root), str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, folders))}
    command = [sys.executable, "-m", module, *words]
    process = subprocess.Popen(command, env=environment)  # noqa: S603 - words of the user
    old = signal.signal(signal.SIGINT, signal.SIG_IGN)

    def pass_on(number: int, frame: FrameType | None) -> None:
        process.send_signal(number)

    before = signal.signal(signal.SIGTERM, pass_on)
    try:
        code = process.wait()
    finally:
        signal.signal(signal.SIGINT, old)
        signal.signal(signal.SIGTERM, before)
    return 128 - code if code < 0 else code  # as shells count signals


def snakemake(
    target: str,
    configfiles: Sequence[str],
    cores: str | None,
    profile: str | None,
    dry_run: bool,
    words: Sequence[str],
) -> int:
    """Call Snakemake for the rule `target` of the project; its exit code.

    `words`: further options. `cores` None: all of this machine, or as many jobs as the profile
    says.
    """
    return call("snakemake", snakemake_words(target, configfiles, cores, profile, dry_run, words))


def snakemake_words(
    target: str,
    configfiles: Sequence[str],
    cores: str | None,
    profile: str | None,
    dry_run: bool,
    words: Sequence[str],
) -> list[str]:
    """The words that `snakemake` gives to Snakemake."""
    root = project_root()
    arguments = ["--snakefile", str(root / "Snakefile")]
    if cores is not None or profile is None:
        arguments += ["--cores", cores or "all"]
    if profile is not None:
        own = root / "profiles" / profile  # the project's, from any directory
        arguments += ["--profile", str(own) if own.is_dir() else profile]
    arguments += ["--dry-run"] if dry_run else []
    # lists last: `--` ends them
    arguments += ["--configfile", *configfiles] if configfiles else []
    return [*arguments, *words, "--", target]
