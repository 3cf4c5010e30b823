"""The job's side of an engine that runs in separate processes, under another interpreter.

They are a separate process group, as an engine may kill the whole process tree around it when one
process fails. They may have other versions of everything; both sides only share a folder (see
`request`).
"""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from subprocess import PIPE, Popen
from tempfile import TemporaryDirectory

import numpy as np

from eagle3.engines.separate.request import (
    EngineRequest,
    SeparateEngine,
    read_fault,
    read_seen,
    write_documents,
)
from eagle3.engines.table import ENGINES, SEPARATE
from eagle3.errors import UserError

PACKAGE = Path(__file__).resolve().parents[2]
# set by torchrun for the job: an engine's ranks would wait for each other in its process group
LAUNCHED = re.compile("RANK$|WORLD_SIZE$|(LOCAL|GROUP|ROLE|MASTER|TORCHELASTIC)_")
STDERR = 2  # file descriptor, to which the job logs


def run_separately(
    request: EngineRequest, documents: Mapping[int, Sequence[int] | np.ndarray], python: str
) -> None:
    """Send `documents` (token ids by number) through an engine run by the interpreter `python`.

    `request.consumer` gets each document's states once. Without documents no engine starts and no
    consumer is made. Raises UserError, in one sentence, for any failure on the other side;
    no process of the engine is running any more when this returns or raises.
    """
    engine = SEPARATE[request.engine]
    engine.check_arguments(request)
    ENGINES[request.engine].check_layers(request.layers, request.num_layers)
    if not documents:
        return
    with TemporaryDirectory(prefix=f"eagle3-{engine.name}-") as name:
        folder = Path(name)
        request.write(folder)
        write_documents(folder, documents)
        code = _run_process(folder, engine, python)
        fault = read_fault(folder)
        if fault:
            raise UserError(fault)
        if code:
            raise UserError(f"{engine.title}'s process ended with {_cause(code)}; its log is above")
        missing = sorted(set(documents) - read_seen(folder))
        if missing:
            raise UserError(
                f"{engine.title} returned no states for {len(missing)} of {len(documents)} "
                f"documents (the first is {missing[0]}, of {len(documents[missing[0]])} tokens); "
                "its log is above"
            )


def _run_process(folder: Path, engine: SeparateEngine, python: str) -> int:
    """Run the engine's process to its end and return its exit code (negative: a signal).

    Nothing is written to its standard input, a pipe that closes when this process ends, however it
    ends; the other side then kills itself.
    """
    # the package alone, not the site-packages it may be in: those are another interpreter's
    path = folder / "path"
    path.mkdir()
    (path / PACKAGE.name).symlink_to(PACKAGE)
    program = Path(shutil.which(python) or python).absolute()
    environment = {k: v for k, v in os.environ.items() if not LAUNCHED.match(k)}
    # ninja, which builds kernels at their first use, is next to the interpreter
    for name, prepended in (("PYTHONPATH", path), ("PATH", program.parent)):
        environment[name] = os.pathsep.join(filter(None, (str(prepended), os.environ.get(name))))
    command = [str(program), "-m", "eagle3.engines.separate.process", str(folder)]
    try:
        process = Popen(  # noqa: S603 - the interpreter is the user's own choice
            command, stdin=PIPE, stdout=STDERR, env=environment, start_new_session=True
        )
    except OSError as fault:
        raise UserError(f"{engine.python_key}: cannot run {python}: {fault.strerror}") from None
    with process:
        try:
            # not reaped yet, so that its id cannot become another group's
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return process.returncode


def _cause(code: int) -> str:
    return f"exit code {code}" if code > 0 else f"signal {signal.Signals(-code).name}"
