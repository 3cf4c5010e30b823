"""Checks before any job that the interpreter of a separate engine exists and has the engine."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator

from eagle3.config.configuration import Config
from eagle3.engines.table import SEPARATE

TIMEOUT = 60  # seconds; a cold network file system is slow
SCRIPT = (
    "import sys; from importlib.util import find_spec; sys.exit(find_spec(sys.argv[1]) is None)"
)


def engine_warnings(config: Config, path: str | None) -> Iterator[str]:
    """A sentence if captures on this machine should fail because their engine is missing. `path`:
    PATH of the jobs."""
    states = config.hidden_states
    engine = SEPARATE.get(states.backend)
    if engine is None or states.source.imports or states.source.kind == "run":
        return
    python = str(getattr(config.resources.capture, f"{engine.name}_python"))
    program = shutil.which(python, path=path)
    if program is None:
        fault = f"there is no interpreter {python!r}"
    elif not _has_package(program, engine.name):
        fault = f"{program} has no package {engine.name}"
    else:
        return
    yield (
        f"hidden_states.backend is {engine.name}, but on this machine {fault}: name the "
        f"interpreter of an environment that has {engine.title} in {engine.python_key}, or call "
        "snakemake with --sdm conda or apptainer (docs/engines.md)"
    )


def _has_package(program: str, package: str) -> bool:
    """Whether an interpreter finds a package, without importing it; True if that is unknown."""
    try:
        # -I: neither the working directory nor this interpreter's PYTHONPATH counts
        command = [program, "-I", "-c", SCRIPT, package]
        return subprocess.run(command, timeout=TIMEOUT, check=False).returncode != 1  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return True
