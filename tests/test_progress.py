"""Progress as people see it: a bar on a terminal, lines in a file."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.builders.terminal import shown
from tests.builders.waiting import LIMIT

ROOT = Path(__file__).resolve().parents[1]
JOB = """
import logging, sys, time
from types import SimpleNamespace
import eagle3.progress
logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
eagle3.progress.LOG_SECONDS = 0.25
now = [0.0]  # a step takes as long on a busy machine
eagle3.progress.time = SimpleNamespace(monotonic=lambda: now[0])
progress = eagle3.progress.Progress(10, "steps", logging.getLogger("job"))
for step in range(10):
    time.sleep(0.11)  # the bar itself has the real clock and is drawn anew after 0.1 s
    now[0] += 0.11
    progress.advance(1, lambda: f"step {step + 1} of 10")
progress.close()
"""


def job(stderr: int) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", JOB], stderr=stderr, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )


def test_a_terminal_shows_a_bar_with_the_time_left_and_one_line_at_the_end() -> None:
    text = shown(job)
    bars = re.findall(r"(\d+)%\|.*?(\d+)/10 \[\d\d:\d\d<(\d\d:\d\d), .*?steps", text)
    assert len(bars) > 3 and bars[-1][1] == "10"
    assert re.findall(r"step \d+ of 10", text) == ["step 10 of 10"]


def test_a_log_file_gets_plain_lines_now_and_then_and_the_last_one() -> None:
    process = job(subprocess.PIPE)
    text = process.communicate(timeout=LIMIT)[1].decode()
    assert process.returncode == 0
    lines = text.splitlines()
    assert all(re.fullmatch(r"step \d+ of 10", line) for line in lines), text
    assert lines[-1] == "step 10 of 10" and 2 <= len(lines) <= 5
