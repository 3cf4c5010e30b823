"""The real script, under the real torchrun with two ranks, killed or stopped inside a stage."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch

from eagle3.training.checkpoint import read_checkpoint
from tests.builders.hold import STATE, STEP, Hold
from tests.builders.processes import code_of, ended, living
from tests.builders.run_file import PATHS, save_run
from tests.builders.shards import TRAIN, changed, training_set
from tests.builders.waiting import wait_for

pytestmark = pytest.mark.long
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def made(targets, tmp_path_factory):
    """A stage of some forty steps, three packs each: an odd number for two ranks."""
    train = changed(TRAIN, epochs=12, epochs_per_stage=12, packs_per_batch=3)
    return training_set(tmp_path_factory.mktemp("set"), targets["llama"], train)


def start(made, folder, processes=1, save_interval=1000, held=None, **more):
    """Start a training job; the launcher becomes torchrun, or the job itself for one process."""
    results = folder / PATHS.out
    results.mkdir(parents=True, exist_ok=True)
    for path in made.schedule_file.parent.iterdir():  # what was made before
        if not (results / path.name).exists():
            (results / path.name).symlink_to(path)
    jobs = {"processes": processes, "save_interval": save_interval, **more}
    train = made.train.model_dump() | {"packs_per_batch": processes}  # the settings say what counts
    tokens = {"max_length": 64}
    run = save_run(
        folder,
        [*made.upstream, made.settings],
        made.target,
        dataset={"num_samples": 24, "shard_size": 12},
        tokens=tokens,
        train=train,
        resources={"train": jobs},
    )
    command = [sys.executable, "-m", "workflow_scripts.launch", "--gpus", "0"]
    command += ["--processes", str(processes), "--", "workflow_scripts.train_stage"]
    command += ["--run-file", str(run), "--stage", "1", "--out", PATHS.checkpoint(1)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment |= held.environment if held else {}
    with open(folder / "log", "a") as log:
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)


def log_of(folder):
    return (folder / "log").read_text()


def code(process, folder):
    """Wait for a job to end; its exit code."""
    return code_of(process, "the training job", lambda: log_of(folder))


def finished(process, folder):
    """Wait for a job that should succeed; its checkpoint and metrics."""
    assert code(process, folder) == 0, log_of(folder)[-3000:]
    metrics = [json.loads(line) for line in (folder / PATHS.metrics(1)).open()]
    return read_checkpoint((folder / PATHS.checkpoint(1)).parent), metrics


@pytest.fixture(scope="module")
def alone(made, tmp_path_factory):
    """What one undisturbed process makes of the stage."""
    folder = tmp_path_factory.mktemp("alone")
    return finished(start(made, folder), folder)


@pytest.fixture(scope="module")
def together(made, tmp_path_factory):
    """What two undisturbed ranks make of it."""
    folder = tmp_path_factory.mktemp("together")
    return finished(start(made, folder, processes=2), folder)


@pytest.fixture
def at_step(tmp_path):
    """A hold of every rank before the n-th step that it makes."""
    return lambda number: Hold(
        tmp_path / f"hold-{number}", ("workflow_scripts.train_stage",), STEP, number
    )


def stopped_at(hold, process, folder, ranks=1):
    """Wait until so many ranks of a job are held."""
    hold.wait(ranks, hopeless=ended(process, lambda: log_of(folder)))


def saved(process, folder):
    """Wait for a whole save of a job that is held: it is written in the background."""
    return wait_for(
        lambda: list((folder / PATHS.resume(1)).glob("step-0*")),
        "the first save",
        hopeless=ended(process, lambda: log_of(folder)),
    )


def assert_same_bits(found, expected):
    """Checkpoints and their metrics, the times in them left out."""
    (one, its), (other, others) = found, expected
    assert [(r["step"], r["loss"]) for r in its] == [(r["step"], r["loss"]) for r in others]
    for a, b in ((one.model, other.model), (one.optimizer, other.optimizer)):
        assert set(a) == set(b)
        assert all(torch.equal(value, b[name]) for name, value in a.items())


def assert_near(found, expected):
    """The same run on other ranks: sums are taken in another order."""
    weights, metrics = expected
    both, theirs = found
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


def test_two_ranks_make_the_same_losses_and_weights_as_one(alone, together):
    assert_near(together, alone)


def test_a_job_killed_in_the_middle_goes_on_to_the_same_bits(made, alone, tmp_path, at_step):
    hold, saves = at_step(8), tmp_path / PATHS.resume(1)
    process = start(made, tmp_path, save_interval=3, held=hold)
    stopped_at(hold, process, tmp_path)
    saved(process, tmp_path)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / PATHS.checkpoint(1)).exists()

    assert_same_bits(finished(start(made, tmp_path, save_interval=3), tmp_path), alone)
    assert "going on from the save at step" in log_of(tmp_path)
    assert not list(saves.glob("step-*"))


@pytest.mark.parametrize("whom", ["torchrun", "the second rank"])
def test_sigterm_ends_both_ranks_at_one_step_with_a_save(made, together, tmp_path, at_step, whom):
    """No save is due: the only one is that of the stop."""
    hold = at_step(8)
    process = start(made, tmp_path, processes=2, held=hold)
    stopped_at(hold, process, tmp_path, ranks=2)
    agent = psutil.Process(process.pid)
    ranks = {worker.environ()["RANK"]: worker for worker in agent.children()}
    {"torchrun": agent, "the second rank": ranks["1"]}[whom].send_signal(signal.SIGTERM)
    assert code(process, tmp_path) not in (0, -signal.SIGTERM)
    said = re.findall(r"error: stopped by SIGTERM at step (\d+); the next", log_of(tmp_path))
    assert len(said) == 1
    stopped = int(said[0])
    assert [p.name for p in (tmp_path / PATHS.resume(1)).glob("*step*")] == [f"step-{stopped:08d}"]
    assert not (tmp_path / PATHS.checkpoint(1)).exists()

    again = finished(start(made, tmp_path, processes=2), tmp_path)
    assert 0 < stopped < len(again[1])
    assert f"going on from the save at step {stopped}" in log_of(tmp_path)
    assert_same_bits(again, together)


def ranks_of(process):
    """The ranks of a job by number."""
    return {p.environ()["RANK"]: p for p in psutil.Process(process.pid).children()}


def test_a_killed_rank_takes_the_job_down_and_the_next_call_goes_on(
    made, together, tmp_path, at_step
):
    hold = at_step(8)
    process = start(made, tmp_path, processes=2, save_interval=3, held=hold)
    stopped_at(hold, process, tmp_path, ranks=2)
    saved(process, tmp_path)
    ranks_of(process)["1"].kill()
    killed = time.monotonic()
    hold.release()
    assert code(process, tmp_path) != 0
    assert time.monotonic() - killed < 60
    assert "Signal 9 (SIGKILL)" in log_of(tmp_path)
    assert not (tmp_path / PATHS.checkpoint(1)).exists()
    assert_same_bits(finished(start(made, tmp_path, 2, save_interval=3), tmp_path), together)


@pytest.mark.parametrize("moment", ["before they meet", "inside the stage"])
def test_ranks_do_not_outlive_torchrun(made, together, tmp_path, at_step, moment):
    """Killed for memory, say: whoever waits for the job's output would wait for them."""
    hold = at_step(8) if moment == "inside the stage" else replace(at_step(1), at="")
    process = start(made, tmp_path, processes=2, save_interval=3, held=hold)
    stopped_at(hold, process, tmp_path, ranks=2)
    if moment == "inside the stage":
        saved(process, tmp_path)
    ranks = psutil.Process(process.pid).children()
    assert len(ranks) == 2
    process.kill()
    process.wait()
    hold.release()
    wait_for(lambda: not living(ranks), "both ranks to end", state=lambda: log_of(tmp_path)[-3000:])
    assert not (tmp_path / PATHS.checkpoint(1)).exists()
    assert_same_bits(finished(start(made, tmp_path, 2, save_interval=3), tmp_path), together)


def test_all_ranks_killed_in_the_middle_of_a_save_go_on_to_the_same_bits(made, together, tmp_path):
    saves = tmp_path / PATHS.resume(1)
    # the second save has its tensors then, and the first rank alone writes
    hold = Hold(tmp_path / "hold", ("workflow_scripts.train_stage",), STATE, 2)
    process = start(made, tmp_path, processes=2, save_interval=1, held=hold)
    stopped_at(hold, process, tmp_path)
    assert list(saves.glob("step-0*"))
    victims = [psutil.Process(process.pid), *ranks_of(process).values()]
    for victim in victims:
        victim.kill()
    process.wait()
    wait_for(lambda: not living(victims), "all ranks to be dead", state=lambda: victims)
    assert list(saves.glob(".step-*.tmp/*"))  # half a save lies there
    assert_same_bits(finished(start(made, tmp_path, 2), tmp_path), together)
    assert "going on from the save at step" in log_of(tmp_path)
    assert not list(saves.glob(".step-*"))


def test_a_stage_begun_by_four_ranks_goes_on_with_two_and_ends_with_one(
    made, alone, tmp_path, at_step
):
    """Weights and moments are saved whole, whoever held parts of them."""
    sharded = {"save_interval": 2, "data_parallel": "fsdp2"}
    for processes, sharing, steps in ((4, 2, 5), (2, 1, 6)):
        hold, before = at_step(steps), newest(tmp_path)
        process = start(made, tmp_path, processes, held=hold, sp_ring_size=sharing, **sharded)
        stopped_at(hold, process, tmp_path, ranks=processes)
        wait_for(
            lambda before=before: newest(tmp_path) > before,
            f"a save after step {before}",
            hopeless=ended(process, lambda: log_of(tmp_path)),
        )
        process.send_signal(signal.SIGTERM)
        assert code(process, tmp_path) != 0
        assert not (tmp_path / PATHS.checkpoint(1)).exists()
    assert_near(finished(start(made, tmp_path), tmp_path), alone)
    went_on = re.findall(r"going on from the save at step (\d+)", log_of(tmp_path))
    assert len(went_on) == 2 and 0 < int(went_on[0]) < int(went_on[1])


def newest(folder):
    """The step of the newest save, 0 without one."""
    return max((int(p.name[5:]) for p in (folder / PATHS.resume(1)).glob("step-0*")), default=0)
