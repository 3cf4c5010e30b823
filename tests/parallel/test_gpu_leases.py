"""GPU leases with real processes on devices that exist by name only."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from eagle3.parallel.gpu_leases import PAUSE
from tests.builders.processes import code_of
from tests.builders.waiting import wait_for

ROOT = Path(__file__).resolve().parents[2]
GPU_JOB = "tests.builders.gpu_job"
LOOKS = 5 * PAUSE  # seconds in which a waiting job looks several times; a slow one looks less often


class Machine:
    """A folder of leases, and the jobs that were started there."""

    def __init__(self, folder: Path):
        self.folder, self.jobs = folder, []
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")}
        self.environment |= {
            "PYTHONPATH": str(ROOT),
            "EAGLE3_GPU_LEASES": str(folder / "leases"),
            "CUDA_VISIBLE_DEVICES": "0,1",
        }

    def start(self, gpus: int, *words: object, processes: int = 1, **environment: str):
        """Launch gpu_job with `words` behind the folder; its log is NAME.log."""
        command = [sys.executable, "-m", "workflow_scripts.launch", "--gpus", str(gpus)]
        command += ["--processes", str(processes), "--", GPU_JOB, str(self.folder)]
        with open(self.folder / f"{words[0]}.log", "w") as log:
            job = subprocess.Popen(
                [*command, *map(str, words)],
                env=self.environment | environment,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        self.jobs.append(job)
        return job

    @property
    def started(self) -> list[dict]:
        path = self.folder / "started"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def names(self) -> list[str]:
        return [said["name"] for said in self.started]

    def end(self, name: str) -> None:
        (self.folder / f"{name}.end").touch()

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def until_started(self, count: int) -> None:
        """Wait until so many jobs and ranks have got their devices."""
        wait_for(lambda: len(self.started) >= count, f"{count} to start", state=self.logs)

    def until_said(self, name: str, words: str = "waiting") -> None:
        """Wait until a job's log has these words."""
        wait_for(lambda: words in self.log(name), f"{words!r} of {name}", state=self.logs)

    def code(self, job: subprocess.Popen) -> int:
        """The exit code of a job, once it has ended."""
        return code_of(job, "a job", lambda: str(self.logs()))

    def logs(self) -> dict[str, str]:
        return {path.stem: path.read_text() for path in self.folder.glob("*.log")}

    def close(self) -> None:
        for job in self.jobs:
            job.kill()
            job.wait()
        for said in self.started:
            if alive(said["process"]):
                os.kill(said["process"], signal.SIGKILL)


def alive(process: int) -> bool:
    """Whether a job of ours still runs; its number may be another process's by now."""
    try:
        return b"tests.builders.gpu_job" in Path(f"/proc/{process}/cmdline").read_bytes()
    except FileNotFoundError:
        return False


@pytest.fixture
def machine(tmp_path):
    made = Machine(tmp_path)
    yield made
    made.close()


def test_eight_jobs_at_once_never_share_one_of_two_devices(machine):
    wanted = [1, 2, 1, 2, 1, 1, 2, 1]
    jobs = [machine.start(gpus, f"job{i}", 0.05) for i, gpus in enumerate(wanted)]
    assert [machine.code(job) for job in jobs] == [0] * 8
    result = {said["name"]: said["devices"] for said in machine.started}
    for i, gpus in enumerate(wanted):
        assert len(set(result[f"job{i}"])) == gpus
        assert set(result[f"job{i}"]) <= {"0", "1"}


def test_a_job_that_needs_all_devices_takes_none_before_and_is_not_passed_by_later_ones(machine):
    machine.start(1, "first")
    machine.until_started(1)
    both = machine.start(2, "both")
    machine.until_said("both")
    later = machine.start(1, "later", 0)
    machine.until_said("later")
    # the second device is free, and is kept for the job that came before
    time.sleep(LOOKS)
    assert machine.names() == ["first"]
    assert f"({GPU_JOB}) holds 0" in machine.log("both")
    machine.end("first")
    machine.until_started(2)
    assert machine.names() == ["first", "both"]
    machine.end("both")
    assert machine.code(both) == machine.code(later) == 0


def test_a_killed_waiter_is_waited_for_no_longer(machine):
    machine.start(1, "first")
    machine.until_started(1)
    both = machine.start(2, "both")
    machine.until_said("both")
    both.kill()
    assert both.wait() == -signal.SIGKILL
    assert machine.code(machine.start(1, "later", 0)) == 0


def test_a_device_stays_leased_while_a_child_of_a_killed_job_lives_and_no_longer(machine):
    job = machine.start(2, "orphan", "child")
    machine.until_started(1)
    job.kill()
    assert job.wait() == -signal.SIGKILL
    orphan = machine.started[0]["process"]
    assert alive(orphan)
    after = machine.start(1, "after", 0)
    machine.until_said("after")
    time.sleep(LOOKS)
    assert after.poll() is None
    assert machine.names() == ["orphan"]
    (machine.folder / "busy-0").rmdir()  # the killed job cannot
    os.kill(orphan, signal.SIGKILL)
    assert machine.code(after) == 0


def test_ranks_that_outlive_a_killed_torchrun_keep_their_devices(machine):
    job = machine.start(2, "rank", processes=2)
    machine.until_started(2)
    assert sorted(said["devices"] for said in machine.started) == [["0"], ["1"]]
    assert sorted(said["world"] for said in machine.started) == [["0", "2"], ["1", "2"]]
    job.kill()
    job.wait()
    after = machine.start(1, "after", 0)
    machine.until_said("after")
    time.sleep(LOOKS)
    assert after.poll() is None
    for name in ("rank0", "rank1"):
        machine.end(name)
    assert machine.code(after) == 0


def test_more_devices_than_there_are_is_one_sentence_at_once(machine):
    job = machine.start(3, "greedy", 0)
    assert machine.code(job) == 1
    (line,) = machine.log("greedy").splitlines()
    assert line.startswith(
        "error: tests.builders.gpu_job asks for 3 GPUs, but there are 2 (0, 1): lower "
    )


def test_jobs_of_different_views_share_no_device(machine):
    """Jobs that may use only the second device, or either, agree on which is which."""
    smi = machine.folder / "bin" / "nvidia-smi"
    smi.parent.mkdir()
    smi.write_text(
        "#!/bin/sh\n"
        'echo "GPU 0: Some GPU (UUID: GPU-aaaa-1)"\n'
        'echo "GPU 1: Some GPU (UUID: GPU-bbbb-2)"\n'
    )
    smi.chmod(0o755)
    del machine.environment["CUDA_VISIBLE_DEVICES"]
    path = f"{smi.parent}:{machine.environment['PATH']}"
    machine.start(1, "uuid", PATH=path, CUDA_VISIBLE_DEVICES="GPU-bbbb")
    machine.until_started(1)
    number = machine.start(1, "number", 0, PATH=path, CUDA_VISIBLE_DEVICES="1")
    machine.until_said("number", "waiting for 1 of the GPUs 1")
    # what is free of all devices is the other one, although it came later
    assert machine.code(machine.start(1, "any", 0, PATH=path)) == 0
    assert machine.started[1]["name"] == "any"
    assert machine.started[1]["devices"] == ["0"]
    assert machine.started[1]["order"] == "PCI_BUS_ID"
    assert number.poll() is None
    machine.end("uuid")
    assert machine.code(number) == 0


def test_devices_that_slurm_gave_are_left_alone_unless_they_are_more_than_a_job_needs(machine):
    given = {"SLURM_JOB_ID": "7"}
    assert machine.code(machine.start(2, "all", 0, **given)) == 0
    assert not (machine.folder / "leases").exists()
    machine.start(1, "one", **given)
    machine.start(1, "two", **given)
    machine.until_started(3)
    assert sorted(said["devices"] for said in machine.started[1:]) == [["0"], ["1"]]


def test_a_job_without_gpus_leases_nothing_and_sees_what_was_visible(machine):
    assert machine.code(machine.start(0, "plain", 0)) == 0
    assert machine.started[0]["devices"] == ["0", "1"]
    assert machine.started[0]["order"] is None
    assert not (machine.folder / "leases").exists()


def test_the_folder_and_its_files_let_other_users_take_part(machine):
    machine.start(1, "first")
    machine.until_started(1)
    leases = machine.folder / "leases"
    assert [oct(path.stat().st_mode & 0o7777) for path in (leases, leases / "queue")] == [
        "0o1777",
        "0o1777",
    ]
    (file,) = (leases / "queue").iterdir()
    assert oct(file.stat().st_mode & 0o777) == "0o644"
    machine.end("first")
    assert machine.code(machine.jobs[0]) == 0
    assert machine.code(machine.start(2, "second", 0)) == 0
    assert len(list((leases / "queue").iterdir())) == 1  # the first one's file is gone
