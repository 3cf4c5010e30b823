"""Progress as people see it: a bar on a terminal, lines in a file."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import termios
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
JOB = """
import logging, sys, time
import eagle3.progress
logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
eagle3.progress.LOG_SECONDS = 0.25
progress = eagle3.progress.Progress(10, "steps", logging.getLogger("job"))
for step in range(10):
    time.sleep(0.11)
    progress.advance(1, lambda: f"step {step + 1} of 10")
progress.close()
"""


def job(stderr: int) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", JOB], stderr=stderr, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )


def test_a_terminal_shows_a_bar_with_the_time_left_and_one_line_at_the_end() -> None:
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    process = job(theirs)
    os.close(theirs)
    seen = b""
    while True:
        try:
            piece = os.read(ours, 4096)
        except OSError:  # Linux's way of saying that the other end is closed
            break
        if not piece:
            break
        seen += piece
    assert process.wait() == 0
    text = seen.decode()
    bars = re.findall(r"(\d+)%\|.*?(\d+)/10 \[\d\d:\d\d<(\d\d:\d\d), .*?steps", text)
    assert len(bars) > 3 and bars[-1][1] == "10"
    assert re.findall(r"step \d+ of 10", text) == ["step 10 of 10"]


def test_a_log_file_gets_plain_lines_now_and_then_and_the_last_one() -> None:
    process = job(subprocess.PIPE)
    text = process.communicate()[1].decode()
    assert process.returncode == 0
    lines = text.splitlines()
    assert all(re.fullmatch(r"step \d+ of 10", line) for line in lines), text
    assert lines[-1] == "step 10 of 10" and 2 <= len(lines) <= 5
