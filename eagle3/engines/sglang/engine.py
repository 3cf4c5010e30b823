"""The SGLang engine: a target run by a server's own kernels and its own tensor parallelism.

The engine lives in other processes, in a separate process group: SGLang kills the whole tree
of processes around it when one of them fails. They may run another interpreter, with SGLang's own
versions of everything; what both sides share is a folder (see `request`).
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

from eagle3.engines.sglang.request import (
    SGLangRequest,
    read_fault,
    read_seen,
    write_documents,
)
from eagle3.errors import UserError
from eagle3.target_model.config import load_config
from eagle3.target_model.layers import layer_count

PACKAGE = Path(__file__).resolve().parents[2]
# set by torchrun for our job: SGLang's ranks would wait for each other in its process group
LAUNCHED = re.compile("RANK$|WORLD_SIZE$|(LOCAL|GROUP|ROLE|MASTER|TORCHELASTIC)_")
STDERR = 2  # the file descriptor: what our job logs to


def run_sglang(
    request: SGLangRequest, documents: Mapping[int, Sequence[int] | np.ndarray], python: str
) -> None:
    """Send `documents` (token ids by number) through an engine run by the interpreter `python`.

    `request.consumer` gets each document's states once. Without documents no engine starts and no
    consumer is made. Raises UserError, in one sentence, for any failure on the other side;
    no process of the engine is running any more when this returns or raises.
    """
    _check_layers(request)
    if not documents:
        return
    with TemporaryDirectory(prefix="eagle3-sglang-") as name:
        folder = Path(name)
        request.write(folder)
        write_documents(folder, documents)
        code = _run_process(folder, python)
        fault = read_fault(folder)
        if fault:
            raise UserError(fault)
        if code:
            raise UserError(f"SGLang's process ended with {_cause(code)}; its log is above")
        missing = sorted(set(documents) - read_seen(folder))
        if missing:
            raise UserError(
                f"SGLang returned no states for {len(missing)} of {len(documents)} documents "
                f"(the first is {missing[0]}, of {len(documents[missing[0]])} tokens); its log is "
                "above"
            )


def _check_layers(request: SGLangRequest) -> None:
    """Raise UserError for a layer whose output SGLang cannot return."""
    config = load_config(Path(request.model), request.trust_remote_code)
    if max(request.layers) >= layer_count(config) - 1:
        raise UserError(
            f"hidden_states.aux_layers is {list(request.layers)}; SGLang cannot return the output "
            f"of the last layer, so use layers below {layer_count(config) - 1}, or "
            "hidden_states.backend hf"
        )


def _run_process(folder: Path, python: str) -> int:
    """Run the engine's process to its end and return its exit code (negative: a signal).

    Its standard input is a pipe that nothing is written to: it closes with our process, however
    that ends, and the other side then kills itself.
    """
    # the package alone, not the site-packages that it may lie in: those are another interpreter's
    path = folder / "path"
    path.mkdir()
    (path / PACKAGE.name).symlink_to(PACKAGE)
    program = Path(shutil.which(python) or python).absolute()
    environment = {k: v for k, v in os.environ.items() if not LAUNCHED.match(k)}
    # next to the interpreter: ninja, which builds SGLang's kernels at first use
    for name, first in (("PYTHONPATH", path), ("PATH", program.parent)):
        environment[name] = os.pathsep.join(filter(None, (str(first), os.environ.get(name))))
    command = [str(program), "-m", "eagle3.engines.sglang.process", str(folder)]
    try:
        process = Popen(  # noqa: S603 - the interpreter is the user's own choice
            command, stdin=PIPE, stdout=STDERR, env=environment, start_new_session=True
        )
    except OSError as fault:
        raise UserError(
            f"resources.capture.sglang_python: cannot run {python}: {fault.strerror}"
        ) from None
    with process:
        try:
            # not reaped yet, so that its number cannot become another group's
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return process.returncode


def _cause(code: int) -> str:
    return f"exit code {code}" if code > 0 else f"signal {signal.Signals(-code).name}"
