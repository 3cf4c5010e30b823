"""The first person with a GPU meets no fault of the check itself."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.gpu import guard

pytestmark = pytest.mark.long
ROOT = Path(__file__).resolve().parents[2]


def test_every_part_runs_on_cuda_and_agrees_with_the_cpu(tmp_path):
    if not shutil.which("g++"):
        pytest.skip("needs a C++ compiler")
    built, report = guard.build(tmp_path), tmp_path / "gpu.json"
    command = [sys.executable, "-m", "tests.gpu.check_script", str(built), str(report)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    parts = json.loads(report.read_text())["parts"]
    rows = [row for part in parts.values() for row in part["rows"]]
    assert len(parts) == 7 and len(rows) > 45 and all(row["ok"] for row in rows)
    (_, recompute) = parts["steps"]["rows"]
    assert recompute["peak GiB"] > 0 and recompute["MFU"] is None  # a card that nobody knows
