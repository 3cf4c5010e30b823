"""The model of a step on a GPU counts the arithmetic that the result needs, and little more."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.long
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    if not shutil.which("g++"):
        pytest.skip("needs a C++ compiler")
    path = tmp_path_factory.mktemp("roofline") / "found.json"
    command = [sys.executable, "-m", "tests.gpu.roofline", "--documents", "4x512", "--lines", "99"]
    command += ["--json", str(path), "--launch", "0", "--memory", "1e30"]  # arithmetic alone
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(path.read_text())


def test_arithmetic_is_what_the_result_needs(report):
    """What is more: rows that fill up a bucket, and rows of a document that are no queries."""
    kept, again = report["rows"]
    card = report["card"]
    for row in (kept, again):
        assert row["tokens"] == 2048 and row["other operators ms"] + row["compiled ms"] < 1e-9
        executed = row["products ms"] * card["product"] + row["attention ms"] * card["attention"]
        needed = row["MFU %"] / 100 * card["peak"] * row["ms"]
        row["more"] = executed / needed
    assert 0.97 < kept["more"] < 1.1
    assert 1.15 < again["more"] < 1.4  # the forward pass a second time, without head and loss


def test_lines_of_the_project_are_named(report):
    kept, again = report["lines"].values()
    assert all(name.endswith(("autograd", "eagle3")) or ".py:" in name for name in kept)
    assert abs(sum(kept.values()) / report["rows"][0]["ms"] - 1) < 1e-6
    assert sum(again.values()) > sum(kept.values())


def test_recomputing_holds_less(report):
    kept, again = report["rows"]
    assert again["peak GB"] < kept["peak GB"] and again["kernels"] > kept["kernels"]
