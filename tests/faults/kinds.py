"""What goes wrong: each kind makes one call of Snakemake on a run, with faults before or in it.

A kind returns its faults, none if the call came to its end first. Where a fault does not end the
call, a power cut does: a round with faults of 10 s each meets many more than one that may finish.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.faults.calls import Call, kill, left_behind, script_of, unlock, wait_for_none
from tests.faults.harm import OUT, candidates, flip, replaced_by, truncate, with_its_dates
from tests.faults.volume import Volume

DAY = 86_400
WRITTEN = {  # by the script that writes it
    "prepare_dataset": "dataset/rows.report.json",
    "train_embedded_target": "target/model.safetensors",
    "tokenize_shard": "tokens/train/shard-00001.safetensors",
    "map_vocabulary": "vocab/mapping.safetensors",
    "make_schedule": "schedule.json",
    "make_plan": "plan.json",
    "capture_hidden_states": "hidden_states/train/shard-00001.safetensors",
    "train_stage": "checkpoints/stage-0002/state.json",
    "score_stage": "evaluation/stage-0002.json",
    "select_best": "evaluation/best.json",
    "export_draft": "draft/sglang/model.safetensors",
    "evaluate_draft": "evaluation/acceptance.json",
    "write_report": "report.html",
}


@dataclass
class Run:
    """A run under test, and the calls made of it so far."""

    volume: Volume
    folder: Path
    others: Path  # a finished run of the same shape under other weights
    rng: random.Random
    calls: int = 0
    call: Call | None = None  # the last one
    damaged: Path | None = None

    def start(self, *arguments: str, **environment: str) -> Call:
        self.calls += 1
        self.call = Call(self.folder, self.calls, *arguments, **environment)
        return self.call

    def into(self, call: Call, longest: float = 14.0) -> bool:
        """Wait for a random moment; whether the call is still at work then."""
        return call.lasts(self.rng.uniform(0.5, longest))

    def to_come(self) -> list[str]:
        """Scripts that are still to write, in order."""
        return [name for name, path in WRITTEN.items() if not (self.folder / OUT / path).exists()]

    def unlock(self) -> None:
        """As the README says, or the same by hand, which takes no time."""
        if self.rng.random() < 0.2:
            unlock(self.folder)
        for lock in (self.folder / ".snakemake/locks").glob("*"):
            lock.unlink()

    def moment(self, call: Call) -> str:
        return ", ".join(sorted({script_of(job) or "" for job in call.jobs()})) or "snakemake"


@dataclass(frozen=True)
class Fault:
    """One of a kind, and what it hit."""

    kind: str
    hit: str


Kind = Callable[[Run], list[Fault]]
KILLS = 4  # of one call, which is told to try again (`--retries`)


def kill_job(run: Run) -> list[Fault]:
    """kill -9 of processes of rules, one after the other."""
    call, result = run.start("--retries", str(KILLS)), list[Fault]()
    while len(result) < KILLS and run.into(call, 10.0):
        if jobs := call.until(call.jobs, "a job"):
            job = run.rng.choice(jobs)
            result.append(Fault("kill_job", script_of(job) or "ended"))
            kill([job])
    return result + cut(run, call)


def kill_rank(run: Run) -> list[Fault]:
    """kill -9 of one rank of two, of each life of the job."""
    call, result, last = run.start("--retries", str(KILLS)), list[Fault](), set[int]()

    def fresh() -> dict[int, psutil.Process]:
        ranks = {rank.pid: rank for rank in call.ranks()}
        return ranks if len(ranks) == 2 and ranks.keys().isdisjoint(last) else {}

    while len(result) < KILLS and (ranks := call.until(fresh, "two ranks of another life")):
        if call.lasts(run.rng.uniform(0, 9)):
            kill([run.rng.choice([*ranks.values()])])
            result.append(Fault("kill_rank", "train_stage"))
            last = {*ranks}
    return result + cut(run, call)


def kill_snakemake(run: Run) -> list[Fault]:
    """kill -9 of Snakemake; its jobs work on, and the next call may meet them."""
    call = run.start()
    if not run.into(call):
        return []
    hit = run.moment(call)
    call.process.kill()
    call.end()
    run.unlock()
    if run.rng.random() < 0.5:
        wait_for_none(run.folder)
    return [Fault("kill_snakemake", hit)]


def power_cut(run: Run) -> list[Fault]:
    """Everything dies at once; locks stay."""
    return cut(run, run.start())


def cut(run: Run, call: Call) -> list[Fault]:
    """The same in a call under way."""
    if not run.into(call):
        return []
    hit = run.moment(call)
    os.killpg(call.process.pid, signal.SIGSTOP)
    kill(left_behind(run.folder))
    os.killpg(call.process.pid, signal.SIGKILL)
    call.end()
    kill(left_behind(run.folder))
    run.unlock()
    return [Fault("power_cut", hit)]


def _signalled(run: Run, kind: str, send: Callable[[int], None]) -> list[Fault]:
    call = run.start()
    if not run.into(call):
        return []
    hit = run.moment(call)
    send(call.process.pid)
    call.end()
    wait_for_none(run.folder)
    return [Fault(kind, hit)]


def terminate(run: Run) -> list[Fault]:
    """SIGTERM to Snakemake, which waits for what is under way."""
    return _signalled(run, "terminate", lambda process: os.kill(process, signal.SIGTERM))


def interrupt(run: Run) -> list[Fault]:
    """Ctrl-C, which a terminal sends to all processes of the call."""
    return _signalled(run, "interrupt", lambda process: os.killpg(process, signal.SIGINT))


def full_disk(run: Run) -> list[Fault]:
    """No space left from a random moment on, until the call has ended."""
    call = run.start()
    if not run.into(call):
        return []
    hit = run.moment(call)
    with run.volume.full(leaving=run.rng.choice([0, 4096, 200_000])):
        call.end()
    return [Fault("full_disk", hit)]


def failing_writes(run: Run) -> list[Fault]:
    """EIO from the n-th write of one script on."""
    if not (to_come := run.to_come()):
        return []
    script = run.rng.choice(to_come[:4])
    here = str(Path(__file__).parent / "failing_writes")
    wanted = f"workflow_scripts.{script}:{run.rng.randint(1, 6)}"
    call = run.start(PYTHONPATH=here, EAGLE3_FAILING_WRITE=wanted)
    return [Fault("failing_writes", script)] if call.end() else []


def read_only(run: Run) -> list[Fault]:
    """A folder of the run that cannot be written."""
    wanted = dict.fromkeys((run.folder / OUT / WRITTEN[each]).parent for each in run.to_come())
    present = [path for path in wanted if path.is_dir()]
    if not present:
        return []
    folder = run.rng.choice(present)
    with run.volume.read_only(folder):
        code = run.start().end()
    return [Fault("read_only", folder.name)] if code else []


def _damage(run: Run, kind: str, change: Callable[[Path], None]) -> list[Fault]:
    """Go on over a changed file: it is refused by name, and removed as the sentence says."""
    result = candidates(run.folder)
    if not result:
        return []
    run.damaged = run.rng.choice(result)
    change(run.damaged)
    code = run.start().end()
    hit = str(run.damaged.relative_to(run.folder / OUT))
    return [Fault(kind, hit if code else f"{hit} (made anew, or not read)")]


def truncated(run: Run) -> list[Fault]:
    """A file cut short."""
    return _damage(run, "truncated", lambda path: truncate(path, run.rng))


def flipped(run: Run) -> list[Fault]:
    """One bit of a file."""
    return _damage(run, "flipped", lambda path: flip(path, run.rng))


def swapped(run: Run) -> list[Fault]:
    """A neighbour's file under this one's name."""

    def change(path: Path) -> None:
        neighbours = [each for each in path.parent.glob(f"*{path.suffix}") if each != path]
        if neighbours:
            replaced_by(path, run.rng.choice(sorted(neighbours)))
        else:
            flip(path, run.rng)

    return _damage(run, "swapped", change)


def of_other_weights(run: Run) -> list[Fault]:
    """The same file of a run with another target."""

    def change(path: Path) -> None:
        other = run.others / path.relative_to(run.folder)
        if other.is_file():
            replaced_by(path, other)
        else:  # saves inside a stage are gone from a finished run
            truncate(path, run.rng)

    return _damage(run, "of_other_weights", change)


def clock_jump(run: Run) -> list[Fault]:
    """Files dated a day back, as after a clock that was wrong."""
    present = [path for path in (run.folder / OUT).rglob("*.*") if path.is_file()]
    if not present:
        return []
    for path in run.rng.sample(sorted(present), min(3, len(present))):
        before = path.stat().st_mtime_ns
        with_its_dates(path, lambda p: None)
        os.utime(path, ns=(before, before - DAY * 10**9))
    return [Fault("clock_jump", "dates"), *cut(run, run.start())]


def two_calls(run: Run) -> list[Fault]:
    """A second call beside the first is refused and does no harm."""
    call = run.start()
    if not run.into(call):
        return []
    hit = run.moment(call)
    first, second = call, run.start()
    refused = second.end() != 0 and "cannot be locked" in second.text
    ended_before = not first.running
    run.call = first
    if not refused and not ended_before:
        raise AssertionError(f"two calls at once:\n{second.text[-3000:]}")
    return [Fault("two_calls", hit), *cut(run, first)]


DURING: tuple[Kind, ...] = (
    kill_job,
    kill_rank,
    kill_snakemake,
    power_cut,
    terminate,
    interrupt,
    full_disk,
    failing_writes,
    read_only,
    two_calls,
)
BEFORE: tuple[Kind, ...] = (truncated, flipped, swapped, of_other_weights, clock_jump)
KINDS = {kind.__name__: kind for kind in (*DURING, *BEFORE)}
