"""Whether the interpreter of a separate engine is there and has the engine, before any job."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator

from eagle3.config.configuration import Config
from eagle3.engines.table import SEPARATE

PATIENCE = 60  # seconds, of a cold network file system
HAS = "import sys; from importlib.util import find_spec; sys.exit(find_spec(sys.argv[1]) is None)"


def engine_warnings(config: Config, path: str | None) -> Iterator[str]:
    """A sentence if captures should fail for want of their engine on this machine. `path`: of the
    jobs."""
    states = config.hidden_states
    engine = SEPARATE.get(states.backend)
    if engine is None or states.source.imports or states.source.kind == "run":
        return
    python = str(getattr(config.resources.capture, f"{engine.name}_python"))
    program = shutil.which(python, path=path)
    if program is None:
        fault = f"there is no interpreter {python!r}"
    elif not _has(program, engine.name):
        fault = f"{program} has no package {engine.name}"
    else:
        return
    yield (
        f"hidden_states.backend is {engine.name}, but on this machine {fault}: name the "
        f"interpreter of an environment that has {engine.title} in {engine.python_key}, or call "
        "snakemake with --sdm conda or apptainer (docs/engines.md)"
    )


def _has(program: str, package: str) -> bool:
    """Whether an interpreter finds a package, which is not imported; True if that is not known."""
    try:
        # not from the working directory, nor from folders that are another interpreter's
        command = [program, "-I", "-c", HAS, package]
        return subprocess.run(command, timeout=PATIENCE, check=False).returncode != 1  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return True
