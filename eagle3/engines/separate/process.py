"""The process that owns an engine: `python -m eagle3.engines.separate.process <folder>`.

Started by `eagle3.engines.separate.run` in a separate process group, often under another
interpreter.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from threading import Thread

from eagle3.engines.separate.intake import import_object
from eagle3.engines.separate.request import (
    EngineRequest,
    SeparateEngine,
    fault_noted,
    read_documents,
)
from eagle3.engines.table import SEPARATE
from eagle3.errors import UserError


def main() -> None:
    folder = Path(sys.argv[1])
    Thread(target=end_with_our_job, args=(folder,), daemon=True).start()
    request = EngineRequest.read(folder)
    engine = SEPARATE[request.engine]
    try:
        with fault_noted(folder, engine.title):
            check_version(engine)
            run_engine(engine, request, folder)
    except UserError:
        sys.exit(1)  # the job prints the reason


def end_with_our_job(folder: Path) -> None:
    """Kill the process group once the job has closed its end of standard input."""
    os.read(0, 1)
    shutil.rmtree(folder, ignore_errors=True)
    os.killpg(os.getpgrp(), signal.SIGKILL)


def check_version(engine: SeparateEngine) -> None:
    """Raise UserError if this interpreter has no such engine or too old a one."""
    if find_spec(engine.name) is None:
        raise engine.missing(f"{sys.executable} has no {engine.name}")
    from packaging.version import Version

    installed = _version(engine)
    if Version(installed) < Version(engine.oldest):
        raise engine.missing(f"{sys.executable} has {engine.name} {installed}")


def _version(engine: SeparateEngine) -> str:
    for package in engine.packages:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    raise engine.missing(f"{sys.executable} has {engine.name} of no known version")


def run_engine(engine: SeparateEngine, request: EngineRequest, folder: Path) -> None:
    """Send every document through the engine, whose processes hand over the states."""
    documents = read_documents(folder)
    longest = max(len(ids) for ids in documents.values())
    program = import_object(engine.program)
    import_object(request.consumer)  # fails here, not after minutes of loading
    program(engine.arguments(request, longest, folder), documents)


if __name__ == "__main__":
    main()
