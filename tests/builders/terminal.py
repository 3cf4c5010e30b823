"""What a program shows on a terminal."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import termios
from collections.abc import Callable

from tests.builders.waiting import LIMIT


def shown(start: Callable[[int], subprocess.Popen]) -> str:
    """All that a process writes to a terminal of 100 columns, which `start` is given; it must end
    well."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    process = start(theirs)
    os.close(theirs)
    seen = b""
    while True:
        ready, _, _ = select.select([ours], [], [], LIMIT)
        assert ready, f"waited {LIMIT:.0f} s for the terminal after {seen.decode()!r}"
        try:
            piece = os.read(ours, 4096)
        except OSError:  # Linux's way of saying that the other end is closed
            break
        if not piece:
            break
        seen += piece
    os.close(ours)
    assert process.wait(LIMIT) == 0
    return seen.decode()
