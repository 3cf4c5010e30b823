"""Progress of a run: its parts in order, how much of each is done, and the time left.

Everything is read from files that jobs write, so it works wherever they run. The time left follows
from finished jobs of the same run, or else from the plan; `source` tells which.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eagle3.report.job_times import measured_jobs
from eagle3.run import Run

FOLDERS = {"train_stage": "train", "score_stage": "score"}  # rule -> folder of its benchmarks
# rules that take the place of others where states of another project are imported
IMPORTING = {
    "dataset": "import_source",
    "tokens": "import_tokens",
    "hidden_states": "import_states",
}
RECENT = 50  # steps over which the pace is averaged


@dataclass(frozen=True)
class RuleProgress:
    """Progress of a rule. `seconds_left`: of work, which parallel jobs share; None if unknown.
    `source`: of the estimate.
    """

    name: str
    done: int
    total: int
    unit: str = "jobs"
    seconds_left: float | None = None
    source: str | None = None

    @property
    def finished(self) -> bool:
        return self.done >= self.total


@dataclass(frozen=True)
class Score:
    """A score of the draft on held-out states inside a stage (`train.score_every_steps`)."""

    step: int  # steps taken
    loss: float
    acceptance_length: float

    def __str__(self) -> str:
        return (
            f"held-out acceptance length {self.acceptance_length:.3f} and loss {self.loss:.4f} "
            f"after step {self.step}"
        )


def parts_of(run: Run, base: Path) -> list[RuleProgress]:
    """The parts of a run whose results/ is in the folder `base`."""
    return [_timed(part, run, base) for part in _counted(run, base)]


def _counted(run: Run, base: Path) -> Iterator[RuleProgress]:
    paths = run.paths

    def files(name: str, expected: Sequence[str], unit: str = "jobs") -> RuleProgress:
        rule = IMPORTING.get(name, name) if run.imports else name
        return RuleProgress(
            rule, sum((base / path).is_file() for path in expected), len(expected), unit
        )

    if run.target_files:
        yield RuleProgress("embedded_target", int(files("", run.target_files).finished), 1)
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
    # the shards' checks stay on this disk, even if rolling mode has removed the states
    held_out = [paths.states_check("eval", shard) for shard in run.held_out]
    yield files("hidden_states", [*run.capture_checks(), *held_out], "shards")
    yield _training(run, base)
    yield files("score_stage", run.stage_scores(), "stages")
    yield files("select_best", [paths.choice])
    formats = run.config.export.formats
    yield files("export", [paths.draft(name) for name in formats], "formats")
    yield files("evaluate", [paths.acceptance])
    yield files("report", [paths.report])


def _training(run: Run, base: Path) -> RuleProgress:
    """Training, in stages; in optimiser steps as soon as there is a schedule."""
    schedule = base / run.paths.schedule
    stages = [(base / path).is_file() for path in run.stage_metrics()]
    if not schedule.is_file():
        return RuleProgress("train_stage", sum(stages), len(stages), "stages")
    steps = json.loads(schedule.read_text(encoding="utf-8"))["total_steps"]
    done = sum(len(_records(_metrics(run, base, stage))) for stage in run.stages.numbers)
    if all(stages):
        done = steps  # training may have stopped early
    return RuleProgress("train_stage", min(done, steps), steps, "steps")


def _metrics(run: Run, base: Path, stage: int) -> Path:
    """Metrics of a stage: the finished file, or the one that is still being written."""
    finished = base / run.paths.metrics(stage)
    return finished if finished.is_file() else base / run.paths.resume(stage) / "metrics.jsonl"


def score_inside(run: Run, base: Path) -> Score | None:
    """The newest score of the draft inside a stage, if there is one."""
    for stage in reversed(run.stages.numbers):
        for record in reversed(_records(_metrics(run, base, stage))):
            if "held_out_loss" in record:
                figures = record["held_out_loss"], record["held_out_acceptance_length"]
                return Score(record["step"] + 1, *figures)
    return None


def _records(path: Path) -> list[dict[str, Any]]:
    """The records on the complete lines of a metrics file; none if there is no file."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    records = []
    for line in text[: text.rfind("\n") + 1].splitlines():
        with suppress(ValueError):  # a line that a power cut damaged
            records.append(json.loads(line))
    return records


def _timed(part: RuleProgress, run: Run, base: Path) -> RuleProgress:
    """The part, with the time left."""
    if part.finished:
        return part
    seconds_per_unit, source = _pace(part, run, base)
    seconds = None if seconds_per_unit is None else seconds_per_unit * (part.total - part.done)
    return replace(part, seconds_left=seconds, source=source)


def _pace(part: RuleProgress, run: Run, base: Path) -> tuple[float | None, str | None]:
    """Seconds per unit of work, and the source of the estimate."""
    if part.name == "train_stage" and part.unit == "steps":
        records = [r for stage in run.stages.numbers for r in _records(_metrics(run, base, stage))]
        seconds = [r["seconds"] + r.get("held_out_seconds", 0.0) for r in records[-RECENT:]]
    else:
        rule = FOLDERS.get(part.name, part.name)
        jobs = measured_jobs(base / run.paths.benchmarks, rule)
        seconds = [figures["s"] for _, figures in jobs if "s" in figures]
    if seconds:
        return sum(seconds) / len(seconds), "measured"
    plan = base / run.paths.plan
    plan_keys = {
        "hidden_states": ("capture_seconds", "loading_seconds"),
        "train_stage": ("training_seconds",),
    }
    if part.name in plan_keys and plan.is_file():
        estimate = json.loads(plan.read_text(encoding="utf-8"))
        parts = [estimate.get(key) for key in plan_keys[part.name]]
        if None not in parts:
            return sum(parts) / part.total, "the plan's estimate"
    return None, None
