"""Holds a process at one call of a function: on PYTHONPATH, read by every Python that starts.

EAGLE3_TEST_HOLD is what tests/builders/hold.py makes: which processes, at which call, and a folder.
There a process leaves `held-<its number>` before the call, and goes on once `go` is there. One that
hears SIGTERM or SIGINT meanwhile goes on as well, and lets the others go.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import signal
import sys
import threading
import time
from functools import wraps
from pathlib import Path
from types import FrameType
from typing import Any

LIMIT = 1800  # seconds
TORCHRUN = re.compile(r"-m (torch\.distributed\.run|workflow_scripts\.torchrun)\b")


def arm(words: list[str], at: str, number: int, folder: Path) -> None:
    """Hold a process whose command line has all `words` before the given call."""
    line = " ".join(sys.orig_argv)
    if not all(word in line for word in words) or TORCHRUN.search(line):
        return
    if "snakemake" in sys.orig_argv or "workflow_scripts.launch" in sys.orig_argv:
        return  # their command lines may have the words of their jobs
    if not at:
        hold(folder)
        return
    module, _, name = at.partition(":")
    place: Any = importlib.import_module(module)
    *owners, last = name.split(".")
    for owner in owners:
        place = getattr(place, owner)
    real, counted = getattr(place, last), 0

    @wraps(real)
    def counting(*args: Any, **named: Any) -> Any:
        nonlocal counted
        counted += 1
        if counted == number:
            hold(folder)
        return real(*args, **named)

    setattr(place, last, counting)


def hold(folder: Path) -> None:
    """Say so, and wait."""
    go = folder / "go"
    before: Any = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def heard(code: int, frame: FrameType | None) -> None:
        go.touch()
        before[code](code, frame)

    # a handler can be set in the main thread alone
    if threading.current_thread() is threading.main_thread():
        for code, handler in before.items():
            if callable(handler):
                signal.signal(code, heard)
    (folder / f"held-{os.getpid()}").touch()
    end = time.monotonic() + LIMIT
    while not go.exists():
        if time.monotonic() > end:  # the test has failed long ago
            sys.stderr.write(f"held for {LIMIT} s and never let go\n")
            os._exit(1)
        time.sleep(0.02)


if given := os.environ.get("EAGLE3_TEST_HOLD"):
    wanted = json.loads(given)
    arm(wanted["words"], wanted["at"], wanted["number"], Path(wanted["folder"]))
