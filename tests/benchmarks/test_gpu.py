"""`make gpu` on a machine without a GPU: every part runs, and one that fails stops no other."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.gpu.__main__ import PARTS, run
from benchmarks.gpu.bench import CPU, Bench, compared
from benchmarks.tables import lines

ROOT = Path(__file__).resolve().parents[2]


def gpu(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.gpu", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.long
def test_every_part_runs_without_a_gpu(tmp_path):
    out = tmp_path / "gpu.json"
    done = gpu("--device", "cpu", "--tiny", "--json", str(out))
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(out.read_text())
    assert list(result["parts"]) == list(PARTS)
    for name, part in result["parts"].items():
        rows = part["rows"]
        assert rows and f"## {name}" in done.stdout
        assert all(row["ok"] for row in rows) == (name != "pipeline"), rows
    steps = result["parts"]["steps"]["rows"]
    assert all(row["tokens/s"] > 0 and row["MFU"] is None for row in steps)


def test_without_a_gpu_it_says_so_in_one_sentence(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    done = gpu("--parts", "codecs")
    assert done.returncode == 1
    assert done.stderr.startswith("error: resources.device is cuda") and "--tiny" in done.stderr


def test_what_fails_is_a_row_and_the_rest_goes_on():
    bench = Bench(CPU, tiny=True, budget=100)

    def part(bench):
        yield bench.row("first", lambda: 1 / 0)
        yield bench.row("second", lambda: {"figure": 2})
        raise OSError("gone")

    first, second, rest = run(bench, part)
    assert first["ok"] is False and first["fault"].startswith("ZeroDivisionError")
    assert second == {"what": "second", "ok": True, "figure": 2}
    assert rest["ok"] is False and rest["fault"] == "OSError: gone"


def test_without_time_a_row_is_left_out():
    bench = Bench(CPU, tiny=True, budget=1)
    row = bench.row("late", lambda: {}, seconds=5)
    assert row["ok"] is None and "time" in row["fault"]


def test_a_wrong_result_is_no_success():
    right = torch.arange(1.0, 5)
    assert compared([right], [right], 1e-6)["ok"]
    assert not compared([right, right * 1.1], [right, right], 1e-2)["ok"]


def test_rows_of_a_table_need_not_have_the_same_figures():
    head, _, one, two = lines([{"a": 1}, {"a": 2, "b": 0.5}])
    assert head == "| a | b   |" and one == "| 1 |     |" and two == "| 2 | 0.5 |"
