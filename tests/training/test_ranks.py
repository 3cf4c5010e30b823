"""The real script, under the real torchrun with two ranks, and killed in the middle of a stage."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from shards import TRAIN, training_set

from eagle3.training.checkpoint import read_checkpoint

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 120  # seconds


@pytest.fixture(scope="module")
def made(targets, tmp_path_factory):
    """A stage of some forty steps, three packs each: an odd number for two ranks."""
    train = replace(TRAIN, epochs=12, epochs_per_stage=12, packs_per_batch=3)
    return training_set(tmp_path_factory.mktemp("set"), targets["llama"], train)


def start(made, folder, processes=1, save_interval=1000):
    """Start a training job; one process needs no torchrun, whose start costs seconds."""
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc-per-node", str(processes)]
    command += [str(ROOT / "workflow_scripts/train_stage.py")]
    options = {
        "settings": made.settings.text,
        "code": "abc",
        "stage": 1,
        "vocab": made.vocab,
        "schedule": made.schedule_file,
        "target": made.target,
        "device": "cpu",
        "threads": 1,
        "save-interval": save_interval,
        "resume": folder / "resume",
        "metrics": folder / "metrics.jsonl",
        "out": folder / "out",
    }
    for name, value in options.items():
        command += [f"--{name}", str(value)]
    command += ["--tokens", *map(str, made.tokens), "--hidden-states", *map(str, made.states)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with open(folder / "log", "a") as log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log)


def finished(process, folder):
    """Wait for a job that should succeed; its checkpoint and metrics."""
    assert process.wait(LIMIT) == 0, (folder / "log").read_text()[-3000:]
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
    return read_checkpoint(folder / "out"), metrics


@pytest.fixture(scope="module")
def alone(made, tmp_path_factory):
    """What one undisturbed process makes of the stage."""
    folder = tmp_path_factory.mktemp("alone")
    return finished(start(made, folder), folder)


def test_two_ranks_make_the_same_losses_and_weights_as_one(made, alone, tmp_path):
    weights, metrics = alone
    both, theirs = finished(start(made, tmp_path, processes=2), tmp_path)
    assert len(theirs) == len(metrics) > 30
    for one, two in zip(metrics, theirs, strict=True):
        assert (one["step"], one["rows"], one["active"]) == (
            two["step"],
            two["rows"],
            two["active"],
        )
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-5, abs=1e-5)
    for name, value in weights.model.items():
        error = (both.model[name] - value).norm() / value.norm()
        assert error <= 1e-5, (name, float(error))


def test_a_job_killed_in_the_middle_goes_on_to_the_same_bits(made, alone, tmp_path):
    weights, metrics = alone
    process = start(made, tmp_path, save_interval=3)
    saves, deadline = tmp_path / "resume", time.monotonic() + LIMIT
    while not list(saves.glob("step-0*")):
        assert process.poll() is None, (tmp_path / "log").read_text()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    assert process.wait(LIMIT) == -signal.SIGKILL
    assert not (tmp_path / "out").exists()

    again, resumed = finished(start(made, tmp_path, save_interval=3), tmp_path)
    assert "going on from the save at step" in (tmp_path / "log").read_text()
    assert [r["step"] for r in resumed] == [r["step"] for r in metrics]
    assert [r["loss"] for r in resumed] == [r["loss"] for r in metrics]
    for part in ("model", "optimizer"):
        found, expected = getattr(again, part), getattr(weights, part)
        assert set(found) == set(expected)
        assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert not list(saves.glob("step-*"))
