"""The project's workflow on the test cluster, and what people and machines do to its jobs."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import yaml

from tests.rules.workflow import ROOT, Outcome, merged, write_overlay

LIMIT = 900  # seconds, for a busy machine
CLUSTER = Path("/var/lib/eagle3-test-slurm")  # where cluster.sh keeps it
RESUME = Path("results/small/resume/stage-0001")
WEIGHTS = "results/small/checkpoints/stage-0001/model.safetensors"
# one stage of two ranks, long enough to be caught in the middle
TRAINING: dict[str, Any] = {
    "train": {"epochs": 8, "epochs_per_stage": 8, "pack_tokens": 512, "packs_per_batch": 2},
    "resources": {"train": {"threads": 2, "processes": 2, "save_interval": 100_000}},
}
# no GPU computes anything here, but Slurm hands them out
ONE = {"gpu": 1}
GPUS = {"hidden_states": ONE, "held_out_states": ONE, "score_stage": ONE, "evaluate": ONE}
GPUS["train_stage"] = {"gpu": 2}
# quick looks at jobs; logs of jobs that were stopped and came back are wanted too
QUICK = {
    "latency-wait": 5,
    "slurm-init-seconds-before-status-checks": 1,
    "slurm-keep-successful-logs": True,
}


class Call:
    """One call of Snakemake in `folder` with the project's profile, and its jobs."""

    def __init__(
        self,
        folder: Path,
        target: str = WEIGHTS,
        change: dict[str, Any] | None = None,
        resources: dict[str, dict[str, Any]] | None = None,
    ) -> None:
        """`change`: laid over the configuration; `resources`: over the profile's of each rule."""
        self.folder = folder
        given = yaml.safe_load((ROOT / "profiles/slurm/config.yaml").read_text())
        given |= QUICK
        given["set-resources"] = merged(merged(given["set-resources"], GPUS), resources or {})
        profile = folder / "profile"
        profile.mkdir(exist_ok=True)
        (profile / "config.yaml").write_text(yaml.safe_dump(given))
        overlay = write_overlay(folder, TRAINING, change or {})
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
        command += ["--profile", str(profile), "--configfile", str(overlay), "--", target]
        with open(folder / "snakemake.log", "w") as log:
            self.process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)

    @property
    def text(self) -> str:
        return (self.folder / "snakemake.log").read_text()

    def outcome(self) -> Outcome:
        """What came of it, at its end."""
        return Outcome(self.process.wait(LIMIT), self.text)

    def end(self) -> None:
        """Interrupt it if it is at work; Snakemake cancels its jobs then."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(LIMIT)

    def until(self, there: Callable[[], Any]) -> Any:
        """What `there` returns once it is something; Snakemake must be at work until then."""
        deadline = time.monotonic() + LIMIT
        while not (found := there()):
            assert self.process.poll() is None, self.text[-4000:]
            assert time.monotonic() < deadline, self.text[-4000:]
            time.sleep(0.05)
        return found

    def training(self) -> str:
        """Slurm's number of the training job, once it has made some steps."""
        metrics = self.folder / RESUME / "metrics.jsonl"
        return self._training_once(lambda: metrics.exists() and metrics.stat().st_size)

    def saved_training(self) -> str:
        """The same, once a save of it is whole; metrics are there while it is being written."""
        return self._training_once(lambda: list((self.folder / RESUME).glob("step-*")))

    def _training_once(self, there: Callable[[], Any]) -> str:
        self.until(there)
        (job,) = self.jobs("train_stage")
        return job

    @contextmanager
    def standing_still(self, job: str) -> Iterator[None]:
        """What is done to a training job finds it at work: its ranks wait until Slurm has acted,
        which takes up to half a minute, and a training of the tests takes less."""
        ranks = [each for each in psutil.process_iter(["cmdline", "cwd"]) if self._is_rank(each)]
        assert len(ranks) == 2
        for rank in ranks:
            rank.suspend()
        try:
            yield
            self.until(lambda: field(job, "JobState") != "RUNNING" or field(job, "Restarts") != "0")
        finally:
            for rank in ranks:
                with suppress(psutil.NoSuchProcess):
                    rank.resume()

    def _is_rank(self, process: psutil.Process) -> bool:
        words = process.info["cmdline"] or ()  # None for one that is dead already
        trains = "workflow_scripts.train_stage" in words and "torch.distributed.run" not in words
        return trains and process.info["cwd"] == str(self.folder)

    def jobs(self, rule: str) -> list[str]:
        """Slurm's numbers of a rule's running jobs."""
        named = re.search(r"SLURM run ID: (\S+)", self.text)
        if named is None:
            return []
        wanted = ["--states=running", f"--name={named[1]}"]
        lines = slurm("squeue", "--noheader", "--format=%i %k", *wanted).splitlines()
        return [line.split()[0] for line in lines if f" rule_{rule}" in line]

    def logs(self, rule: str) -> str:
        """Slurm's logs of a rule's jobs, older ones first."""
        found = (self.folder / "results/slurm-logs" / f"rule_{rule}").rglob("*.log")
        return "".join(path.read_text() for path in sorted(found))


def slurm(*command: str) -> str:
    """Output of a Slurm command."""
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.strip()


def field(job: str, name: str) -> str:
    """A field of `scontrol show job`."""
    words = slurm("scontrol", "show", "job", job).split()
    (found,) = (word.split("=", 1)[1] for word in words if word.startswith(f"{name}="))
    return found


def crash(node: str, job: str) -> None:
    """What a power cut leaves of a node: nothing."""
    heads = [psutil.Process(int((CLUSTER / "pid" / f"slurmd-{node}").read_text()))]
    for process in psutil.process_iter(["cmdline"]):  # None for one that is dead already
        if " ".join(process.info["cmdline"] or ()).startswith(f"slurmstepd: [{job}."):
            heads.append(process)
    assert len(heads) > 1
    for process in [p for head in heads for p in (head, *head.children(recursive=True))]:
        process.kill()
    slurm("scontrol", "update", f"nodename={node}", "state=down", "reason=test")


def repair(node: str) -> None:
    """Bring a crashed node back, and wait until the controller counts on it again."""
    subprocess.run(["slurmd", "-N", node], check=True)
    deadline = time.monotonic() + LIMIT
    # not until it is idle: planned and completing are fine, and can last for minutes
    while {"DOWN", "DRAIN", "NOT_RESPONDING"} & (state := node_state(node)):
        assert time.monotonic() < deadline, (state, (CLUSTER / "log/slurmctld").read_text()[-4000:])
        # refused where the daemon's return has brought the node up already
        command = ["scontrol", "update", f"nodename={node}", "state=resume"]
        subprocess.run(command, check=False, capture_output=True)
        time.sleep(0.2)


def node_state(node: str) -> set[str]:
    """The base state of a node and its flags, as in `IDLE+PLANNED`."""
    (found,) = re.findall(r"\bState=(\S+)", slurm("scontrol", "show", "node", node))
    return set(found.split("+"))


def without_training(finished: Path, folder: Path) -> Path:
    """A copy of a finished run that has everything up to the hidden states."""
    shutil.copytree(finished, folder, symlinks=True)
    for name in ("checkpoints", "metrics", "draft", "evaluation", "report.html"):
        path = folder / "results/small" / name
        path.unlink() if path.is_file() else shutil.rmtree(path)
    return folder


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def available() -> bool:
    """Whether `cluster.sh run` started this."""
    return "EAGLE3_TEST_SLURM" in os.environ
