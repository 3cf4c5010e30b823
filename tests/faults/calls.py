"""Calls of Snakemake on the small run, watched from outside, and the processes that they leave."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from tests.builders.processes import HEARS_INTERRUPTS, code_of
from tests.builders.waiting import wait_for
from tests.rules.workflow import command, snakemake

LIMIT = 600  # seconds, for a busy machine
# a target of a moment's training: with more, most faults would hit that one job
CHANGE: dict[str, Any] = {
    "embedded_target": {"source": "few.jsonl"},
    "train": {"pack_tokens": 1024},
    "resources": {"train": {"threads": 2, "processes": 2, "save_interval": 3}},
}
SENTENCE = re.compile(r"error: (.+)$", flags=re.MULTILINE)  # maybe behind a rank
# ranks that wait for a dead one would be left a minute each time
ENVIRONMENT = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "5", "OMP_NUM_THREADS": "1"}


class Call:
    """One call of Snakemake, under way."""

    def __init__(self, folder: Path, number: int, *arguments: str, **environment: str) -> None:
        self.folder, self.log = folder, folder.parent / f"call-{number:03d}.log"
        with open(self.log, "w") as out:
            self.process = subprocess.Popen(
                [*HEARS_INTERRUPTS, *command(folder, *arguments, change=CHANGE)],
                cwd=folder,
                stdout=out,
                stderr=out,
                env={**os.environ, **ENVIRONMENT, **environment},
                start_new_session=True,
            )

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    @property
    def text(self) -> str:
        return self.log.read_text(errors="replace")

    @property
    def sentences(self) -> list[str]:
        """What the project's own code has said, each once."""
        return list(dict.fromkeys(SENTENCE.findall(self.text)))

    def lasts(self, seconds: float) -> bool:
        """Whether it is at work after that time: a fault at a random moment, or none."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return True
        return False

    def end(self) -> int:
        """Wait until it ends by itself; its exit code."""
        return code_of(self.process, "Snakemake", lambda: self.text, LIMIT)

    def until(self, there: Callable[[], Any], what: str) -> Any:
        """What `there` returns once it is something; nothing if the call ends before."""

        def look() -> tuple[Any, ...]:
            over = not self.running
            result = there()
            return (result,) if result or over else ()

        return wait_for(look, what, LIMIT, state=lambda: self.text[-4000:])[0]

    def jobs(self) -> list[psutil.Process]:
        """Processes that run the project's scripts for it."""
        try:
            children = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        return [each for each in children if script_of(each)]

    def ranks(self) -> list[psutil.Process]:
        """Ranks of its training job, without torchrun."""
        return [each for each in self.jobs() if script_of(each) == "train_stage" and is_rank(each)]


def words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def script_of(process: psutil.Process) -> str | None:
    """The script that a Python process runs, if it is one of the project's."""
    given = words(process)
    if not given or "python" not in Path(given[0]).name:
        return None
    result = [word for word in given if word.startswith("workflow_scripts.")]
    return result[-1].removeprefix("workflow_scripts.") if result else None


def is_rank(process: psutil.Process) -> bool:
    return "workflow_scripts.torchrun" not in words(process)


def left_behind(folder: Path) -> list[psutil.Process]:
    """Processes at work in the folder, whoever started them."""
    result = []
    for process in psutil.process_iter():
        try:
            if script_of(process) and Path(process.cwd()) == folder:
                result.append(process)
        except (psutil.Error, OSError):
            continue
    return result


def wait_for_none(folder: Path) -> None:
    """Until jobs whose Snakemake was killed have come to their end."""
    wait_for(
        lambda: not left_behind(folder),
        f"all jobs in {folder} to end",
        LIMIT,
        state=lambda: [words(each) for each in left_behind(folder)],
    )


def kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        try:
            process.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue


def unlock(folder: Path) -> None:
    """What the README says after a kill of Snakemake itself."""
    outcome = snakemake(folder, "--unlock", change=CHANGE)
    if outcome.code:
        raise RuntimeError(outcome.text)


def idle(folder: Path, change: dict[str, Any] = CHANGE) -> bool:
    """Whether a further call would do nothing."""
    return snakemake(folder, "-n", change=change).idle
