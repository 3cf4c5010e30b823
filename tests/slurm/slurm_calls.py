"""The project's workflow on the test cluster, and what people and machines do to its jobs."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import yaml

from tests.builders.hold import Hold
from tests.builders.processes import code_of, ended
from tests.builders.waiting import wait_for
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
        hold: Hold | None = None,
    ) -> None:
        """`change`: laid over the configuration; `resources`: over the profile's of each rule;
        `hold`: which jobs stand still at which moment."""
        self.folder, self.hold = folder, hold
        given = yaml.safe_load((ROOT / "profiles/slurm/config.yaml").read_text())
        given |= QUICK
        given["set-resources"] = merged(merged(given["set-resources"], GPUS), resources or {})
        profile = folder / "profile"
        profile.mkdir(exist_ok=True)
        (profile / "config.yaml").write_text(yaml.safe_dump(given))
        overlay = write_overlay(folder, TRAINING, change or {})
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
        command += ["--profile", str(profile), "--configfile", str(overlay), "--", target]
        # Slurm hands the variables of the one who submits on to his jobs
        environment = os.environ | (hold.environment if hold else {})
        with open(folder / "snakemake.log", "w") as log:
            self.process = subprocess.Popen(
                command, cwd=folder, stdout=log, stderr=log, env=environment
            )

    @property
    def text(self) -> str:
        return (self.folder / "snakemake.log").read_text()

    def outcome(self) -> Outcome:
        """What came of it, at its end."""
        return Outcome(code_of(self.process, "Snakemake", lambda: self.text, LIMIT), self.text)

    def end(self) -> None:
        """Interrupt it if it is at work; Snakemake cancels its jobs then."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            code_of(self.process, "Snakemake, interrupted,", lambda: self.text, LIMIT)

    def until(self, there: Callable[[], Any], what: str) -> Any:
        """What `there` returns once it is something; Snakemake must be at work until then."""
        return wait_for(
            there,
            what,
            LIMIT,
            state=lambda: self.text[-4000:],
            hopeless=ended(self.process, lambda: self.text),
        )

    def held(self, rule: str, processes: int) -> list[str]:
        """Slurm's numbers of a rule's jobs, once so many processes of them are held."""
        assert self.hold is not None
        self.hold.wait(processes, LIMIT, ended(self.process, lambda: self.text))
        return self.jobs(rule)

    def saved(self) -> None:
        """Wait until a save of the training is whole; it is written beside the steps."""
        self.until(lambda: list((self.folder / RESUME).glob("step-*")), "a whole save")

    def jobs(self, rule: str, states: str = "running") -> list[str]:
        """Slurm's numbers of a rule's jobs in these states."""
        named = re.search(r"SLURM run ID: (\S+)", self.text)
        if named is None:
            return []
        wanted = [f"--states={states}", f"--name={named[1]}"]
        lines = slurm("squeue", "--noheader", "--format=%i %k", *wanted).splitlines()
        return [line.split()[0] for line in lines if f" rule_{rule}" in line]

    def logs(self, rule: str) -> str:
        """Slurm's logs of a rule's jobs, older ones first."""
        result = (self.folder / "results/slurm-logs" / f"rule_{rule}").rglob("*.log")
        return "".join(path.read_text() for path in sorted(result))


def slurm(*command: str) -> str:
    """Output of a Slurm command."""
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=LIMIT)
    return done.stdout.strip()


def field(job: str, name: str) -> str:
    """A field of `scontrol show job`."""
    words = slurm("scontrol", "show", "job", job).split()
    (result,) = (word.split("=", 1)[1] for word in words if word.startswith(f"{name}="))
    return result


def crash(node: str, job: str) -> None:
    """What a power cut leaves of a node: nothing."""
    heads = [psutil.Process(int((CLUSTER / "pid" / f"slurmd-{node}").read_text()))]
    for process in psutil.process_iter(["cmdline"]):  # None for one that is dead already
        if " ".join(process.info["cmdline"] or ()).startswith(f"slurmstepd: [{job}."):
            heads.append(process)
    assert len(heads) > 1
    for process in [p for head in heads for p in (head, *head.children(recursive=True))]:
        with suppress(psutil.NoSuchProcess):  # it ended with its parent
            process.kill()
    slurm("scontrol", "update", f"nodename={node}", "state=down", "reason=test")


def repair(node: str) -> None:
    """Bring a crashed node back, and wait until the controller counts on it again."""
    subprocess.run(["slurmd", "-N", node], check=True)

    def back() -> bool:
        # not until it is idle: planned and completing are fine, and can last for minutes
        if not {"DOWN", "DRAIN", "NOT_RESPONDING"} & node_state(node):
            return True
        # refused where the daemon's return has brought the node up already
        command = ["scontrol", "update", f"nodename={node}", "state=resume"]
        subprocess.run(command, check=False, capture_output=True)
        return False

    log = CLUSTER / "log/slurmctld"
    wait_for(
        back,
        f"the controller to count on {node} again",
        LIMIT,
        state=lambda: (node_state(node), log.read_text()[-4000:]),
    )


def node_state(node: str) -> set[str]:
    """The base state of a node and its flags, as in `IDLE+PLANNED`."""
    (result,) = re.findall(r"\bState=(\S+)", slurm("scontrol", "show", "node", node))
    return set(result.split("+"))


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
