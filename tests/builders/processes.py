"""Processes that a test watches or ends, and how they came out."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterable
from contextlib import suppress

import psutil

from tests.builders.waiting import LIMIT, wait_for

# before a command: it hears Ctrl-C, also where the tests run in the background, which ignores it
HEARS_INTERRUPTS = ["env", "--default-signal=INT"]


def ended(process: subprocess.Popen, text: Callable[[], str]) -> Callable[[], str | None]:
    """For `wait_for`: the exit code and the end of the output of a process that is over."""

    def cause() -> str | None:
        code = process.poll()
        return None if code is None else f"its process ended with code {code}:\n{text()[-4000:]}"

    return cause


def code_of(
    process: subprocess.Popen, what: str, text: Callable[[], str], limit: float = LIMIT
) -> int:
    """The exit code of a process, once it has ended by itself."""
    wait_for(lambda: process.poll() is not None, f"{what} to end", limit, lambda: text()[-4000:])
    return process.returncode


def living(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Those that are not dead; a zombie is, and in a container nobody may collect it."""
    result = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                result.append(process)
    return result


def kill_group(process: subprocess.Popen) -> None:
    """kill -9 of a process that leads a group of its own, and of all in it; until all are dead,
    for only then their locks are free."""
    members = []
    for each in psutil.process_iter():
        with suppress(OSError):
            if os.getpgid(each.pid) == process.pid:
                members.append(each)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    wait_for(lambda: not living(members), "the killed group to be dead", state=lambda: members)
