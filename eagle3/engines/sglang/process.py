"""The process that owns an SGLang engine: `python -m eagle3.engines.sglang.process <folder>`.

Started by `eagle3.engines.sglang.engine` in a separate process group, often under another
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
from typing import Any

from eagle3.engines.sglang.request import (
    ARGUMENTS_KEY,
    REQUEST_ID,
    SGLangRequest,
    fault_noted,
    read_documents,
)
from eagle3.errors import UserError

OLDEST = "0.5.23"  # the first with enable_return_aux_hidden_states
PYTHON_KEY = "resources.capture.sglang_python"
SENT_AT_ONCE = 1024  # documents


def main() -> None:
    folder = Path(sys.argv[1])
    Thread(target=end_with_our_job, args=(folder,), daemon=True).start()
    try:
        with fault_noted(folder):
            check_version()
            run_engine(folder)
    except UserError:
        sys.exit(1)  # our job prints the reason


def end_with_our_job(folder: Path) -> None:
    """Kill the whole process group once the other end of standard input has been closed."""
    os.read(0, 1)
    shutil.rmtree(folder, ignore_errors=True)
    os.killpg(os.getpgrp(), signal.SIGKILL)


def check_version() -> None:
    """Raise UserError if this interpreter has no SGLang or too old a one."""
    remedy = f"SGLang {OLDEST} or newer is needed (envs/sglang.yaml); set {PYTHON_KEY}"
    if find_spec("sglang") is None:
        raise UserError(f"{sys.executable} has no sglang; {remedy}")
    from packaging.version import Version

    installed = metadata.version("sglang")
    if Version(installed) < Version(OLDEST):
        raise UserError(f"{sys.executable} has sglang {installed}; {remedy}")


def run_engine(folder: Path) -> None:
    """Send every document through an engine; the hook in its schedulers takes the states."""
    # a document may be as long as the model's context, and SGLang needs some more
    os.environ["SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN"] = "1"
    import sglang

    from eagle3.engines.sglang.hook import named

    request, documents = SGLangRequest.read(folder), read_documents(folder)
    named(request.consumer)  # fails here, not after minutes of loading
    longest = max(len(ids) for ids in documents.values())
    engine: Any = None
    try:
        engine = sglang.Engine(**request.engine_arguments(longest, folder))
    except (TypeError, ValueError, AssertionError) as fault:
        raise UserError(f"SGLang refuses its arguments ({ARGUMENTS_KEY}): {fault}") from None
    numbers = list(documents)
    for start in range(0, len(numbers), SENT_AT_ONCE):
        chosen = numbers[start : start + SENT_AT_ONCE]
        engine.generate(
            input_ids=[documents[number].tolist() for number in chosen],
            rid=[f"{REQUEST_ID}{number}" for number in chosen],
            sampling_params={"max_new_tokens": 0, "temperature": 0},
        )
    engine.shutdown()


if __name__ == "__main__":
    main()
