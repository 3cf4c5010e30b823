"""How far a run is: its parts in order, what each has done, and the time that is left.

Everything is read from files that jobs leave, so it is the same wherever they run. Time left is
what finished jobs of the same run took, or the plan's estimate, which says so.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from eagle3.run import Run

FOLDERS = {"train_stage": "train", "score_stage": "score"}  # of the benchmarks of a rule
RECENT = 50  # steps whose pace counts


@dataclass(frozen=True)
class Part:
    """A part of a run. `seconds`: of work that is left, None if nothing tells; `source`: what told.

    Jobs that run beside each other share the seconds.
    """

    name: str
    done: int
    total: int
    unit: str = "jobs"
    seconds: float | None = None
    source: str = ""

    @property
    def finished(self) -> bool:
        return self.done >= self.total


def parts_of(run: Run, base: Path) -> list[Part]:
    """The parts of a run whose results/ lies in the folder `base`."""
    return [_timed(part, run, base) for part in _counted(run, base)]


def _counted(run: Run, base: Path) -> Iterator[Part]:
    paths = run.paths

    def files(name: str, wanted: Sequence[str], unit: str = "jobs") -> Part:
        return Part(name, sum((base / path).is_file() for path in wanted), len(wanted), unit)

    if run.target_files:
        yield Part("embedded_target", int(files("", run.target_files).finished), 1)
    yield files("dataset", [paths.rows_report])
    splits = [("train", shard) for shard in run.shards] + [("eval", s) for s in run.held_out]
    if run.regenerates:
        answers = [paths.answers_report(split, shard) for split, shard in splits]
        yield files("regenerate", answers, "shards")
    tokens = [paths.tokens(split, shard) for split, shard in splits]
    yield files("tokens", tokens, "shards")
    yield files("vocab", [paths.vocab_report])
    yield files("schedule", [paths.schedule])
    yield files("plan", [paths.plan])
    # the checks of shards stay on this disk, and when rolling mode removes the states
    held_out = [paths.states_check("eval", shard) for shard in run.held_out]
    yield files("hidden_states", [*run.capture_checks(), *held_out], "shards")
    yield _training(run, base)
    yield files("score_stage", run.stage_scores(), "stages")
    yield files("select_best", [paths.choice])
    formats = run.config.export.formats
    yield files("export", [paths.draft(name) for name in formats], "formats")
    yield files("evaluate", [paths.acceptance])
    yield files("report", [paths.report])


def _training(run: Run, base: Path) -> Part:
    """Stages, or optimiser steps once the schedule says how many there are."""
    schedule = base / run.paths.schedule
    stages = [(base / path).is_file() for path in run.stage_metrics()]
    if not schedule.is_file():
        return Part("train_stage", sum(stages), len(stages), "stages")
    steps = json.loads(schedule.read_text(encoding="utf-8"))["total_steps"]
    done = sum(len(_lines(_metrics(run, base, stage))) for stage in run.stages.numbers)
    if all(stages):
        done = steps  # training may have stopped early
    return Part("train_stage", min(done, steps), steps, "steps")


def _metrics(run: Run, base: Path, stage: int) -> Path:
    """A stage's metrics: what is finished, or what is under way."""
    whole = base / run.paths.metrics(stage)
    return whole if whole.is_file() else base / run.paths.resume(stage) / "metrics.jsonl"


def _lines(path: Path) -> list[str]:
    """Whole lines of a metrics file; none if it is not there."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    return text[: text.rfind("\n") + 1].splitlines()


def _timed(part: Part, run: Run, base: Path) -> Part:
    """The part with the time that is left."""
    left = part.total - part.done
    if left <= 0:
        return part
    seconds_each, source = _pace(part, run, base)
    seconds = None if seconds_each is None else seconds_each * left
    return Part(part.name, part.done, part.total, part.unit, seconds, source)


def _pace(part: Part, run: Run, base: Path) -> tuple[float | None, str]:
    """Seconds of one more, and what tells."""
    if part.name == "train_stage" and part.unit == "steps":
        seconds = [
            json.loads(line)["seconds"]
            for stage in run.stages.numbers
            for line in _lines(_metrics(run, base, stage))
        ][-RECENT:]
    else:
        seconds = list(benchmark_seconds(base / run.paths.benchmarks, part.name))
    if seconds:
        return sum(seconds) / len(seconds), "measured"
    plan = base / run.paths.plan
    estimated = {"hidden_states": "capture_seconds", "train_stage": "training_seconds"}
    if part.name in estimated and plan.is_file():
        planned = json.loads(plan.read_text(encoding="utf-8"))
        return planned[estimated[part.name]] / part.total, "the plan's estimate"
    return None, ""


def benchmark_seconds(folder: Path, rule: str | None = None) -> Iterator[float]:
    """Seconds that each finished job of a rule took, or of all rules."""
    name = FOLDERS.get(rule, rule) if rule else ""
    paths = [*folder.glob(f"{name}.tsv"), *(folder / name).rglob("*.tsv")]
    for path in paths:
        with open(path, encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file, delimiter="\t"):
                try:
                    yield float(row["s"])
                except ValueError:  # NA of a job that was too short
                    continue
