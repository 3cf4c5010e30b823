"""`snakemake --profile slurm` on a real Slurm: whole runs, and jobs that are killed on the way."""

from __future__ import annotations

import re

import pytest

from tests.builders.hold import STEP, Hold
from tests.slurm.slurm_calls import WEIGHTS, crash, digest, field, repair, slurm, without_training

STOPPED = r"error: stopped by SIGTERM at step (\d+); the next call continues from there"
GOING_ON = r"going on from the save at step (\d+)"


@pytest.fixture
def folder(local, tmp_path):
    """Everything is there but the training."""
    return without_training(local, tmp_path / "run")


@pytest.fixture
def hold(tmp_path):
    """Both ranks of a training stand still after some steps; each goes on when Slurm stops it."""
    return Hold(tmp_path / "hold", ("workflow_scripts.train_stage",), STEP, 15)


def assert_went_on(local, call):
    """Stopped once with a save, gone on from there, to the same bits."""
    log = call.logs("train_stage")
    stopped, resumed = re.findall(STOPPED, log), re.findall(GOING_ON, log)
    assert stopped and stopped == sorted(set(resumed), key=resumed.index), log[-6000:]
    assert digest(call.folder / WEIGHTS) == digest(local / WEIGHTS)


def test_a_run_on_slurm_makes_the_bits_of_a_local_one(local, tmp_path, start):
    capture = ("workflow_scripts.capture_hidden_states", "--split train")
    hold = Hold(tmp_path / "hold", capture)
    call = start(tmp_path, target="train", hold=hold)
    # the shards are captured side by side, each with a GPU of its own
    jobs = call.held("hidden_states", 2)
    assert len(jobs) == 2
    assert {field(job, "TresPerJob") for job in jobs} == {"gres:gpu:1"}
    hold.release()
    outcome = call.outcome()
    assert outcome.code == 0, outcome.text[-8000:]
    jobs = dict(re.findall(r"^Job (\d+): (\w+): ", outcome.text, flags=re.MULTILINE))
    submitted = set(re.findall(r"^Job (\d+) has been submitted", outcome.text, re.MULTILINE))
    at_home = {rule for number, rule in jobs.items() if number not in submitted}
    assert at_home == {"dataset", "vocab", "schedule", "plan", "select_best", "export", "report"}
    for name in (WEIGHTS, "results/small/draft/sglang/model.safetensors"):
        assert digest(tmp_path / name) == digest(local / name), name
    assert start(tmp_path, target="train").outcome().idle


def test_training_on_two_nodes_makes_the_bits_of_two_local_ranks(local, folder, start, hold):
    several = {"nodes": 2, "tasks": 2, "tasks_per_gpu": 0, "mpi": "srun", "gpu": 0}
    each = {"resources": {"train": {"processes": 1}}}
    resources = {"train_stage": several | {"gres": "'gpu:1'"}}
    call = start(folder, change=each, resources=resources, hold=hold)
    (job,) = call.held("train_stage", 2)
    assert field(job, "NumNodes") == "2" and field(job, "TresPerNode") == "gres:gpu:1"
    hold.release()
    outcome = call.outcome()
    assert outcome.code == 0, outcome.text[-6000:]
    assert digest(folder / WEIGHTS) == digest(local / WEIGHTS)


def test_a_cancelled_job_is_run_again_and_goes_on_from_its_save(local, folder, start, hold):
    call = start(folder, hold=hold)
    (job,) = call.held("train_stage", 2)
    slurm("scancel", job)
    outcome = call.outcome()
    assert outcome.code == 0, outcome.text[-6000:]
    assert "SLURM status is: 'CANCELLED'" in outcome.text
    assert_went_on(local, call)


def test_a_job_at_its_time_limit_is_run_again_with_more_time(local, folder, start, hold):
    call = start(folder, resources={"train_stage": {"runtime": "30 * attempt"}}, hold=hold)
    (job,) = call.held("train_stage", 2)
    assert field(job, "TimeLimit") == "00:30:00"
    slurm("scontrol", "update", f"jobid={job}", "endtime=now")
    (again,) = call.until(
        lambda: [each for each in call.jobs("train_stage", "all") if each != job],
        "a second job of the training",
    )
    assert field(again, "TimeLimit") == "01:00:00"
    outcome = call.outcome()
    assert outcome.code == 0, outcome.text[-6000:]
    assert "SLURM status is: 'TIMEOUT'" in outcome.text
    assert_went_on(local, call)


def test_a_preempted_job_comes_back_and_goes_on_from_its_save(local, folder, start, hold):
    call = start(folder, resources={"train_stage": {"slurm_partition": "spare"}}, hold=hold)
    (job,) = call.held("train_stage", 2)
    urgent = ["sbatch", "--wait", "--partition=gpu", "--nodes=2", "--gpus-per-node=4"]
    slurm(*urgent, "--mem=100", "--output=/dev/null", "--wrap=sleep 1")
    outcome = call.outcome()
    assert outcome.code == 0, outcome.text[-6000:]
    assert field(job, "Restarts") == "1"  # the same job, and Snakemake just waited
    assert outcome.jobs == {"train_stage": 1}
    assert_went_on(local, call)


def test_a_job_of_a_dead_node_runs_again_on_another(local, folder, start, hold):
    call = start(folder, change={"resources": {"train": {"save_interval": 10}}}, hold=hold)
    (job,) = call.held("train_stage", 2)
    call.saved()
    node = field(job, "NodeList")
    crash(node, job)
    hold.release()
    try:
        outcome = call.outcome()
    finally:
        repair(node)
    assert outcome.code == 0, outcome.text[-6000:]
    assert field(job, "Restarts") == "1" and field(job, "NodeList") != node
    log = call.logs("train_stage")
    assert re.findall(GOING_ON, log) and not re.findall(STOPPED, log)
    assert digest(folder / WEIGHTS) == digest(local / WEIGHTS)
