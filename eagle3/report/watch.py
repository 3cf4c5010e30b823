"""Progress of a run, from the files that its jobs write, on whatever machine they run."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eagle3.errors import UserError


@dataclass(frozen=True)
class RunPart:
    """A part of the work: shards of tokens and of states, or optimiser steps."""

    name: str
    done: int
    total: int
    unit: str
    note: str = ""


@dataclass(frozen=True)
class Score:
    """What held-out states say of a draft inside a stage (`train.score_every_steps`)."""

    step: int  # steps taken
    loss: float
    acceptance_length: float

    def __str__(self) -> str:
        return (
            f"held-out acceptance length {self.acceptance_length:.3f} and loss {self.loss:.4f} "
            f"after step {self.step}"
        )


def parts_of(folder: Path) -> list[RunPart]:
    """The long parts of the run in results/<run>; empty until its plan is there.

    Raises UserError if there is no such run.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such run; give its folder, such as results/demo")
    try:
        plan = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    captured = list((folder / "hidden_states" / "train").rglob("*.check.json"))
    # what a stage has recorded moves to metrics/ when it is done, and is in both for a moment
    steps: dict[str, int] = {}
    for path in folder.glob("metrics/stage-*.jsonl"):
        steps[path.stem] = _steps(path)
    for path in folder.glob("resume/stage-*/metrics.jsonl"):
        steps[path.parent.name] = max(_steps(path), steps.get(path.parent.name, 0))
    shards = plan["shards"]
    score = newest_score(
        [*folder.glob("metrics/stage-*.jsonl"), *folder.glob("resume/stage-*/metrics.jsonl")]
    )
    note = str(score) if score else ""
    return [
        RunPart("hidden states", len(captured), shards * plan["captures"], "shards"),
        RunPart("training", sum(steps.values()), plan["steps"], "steps", note),
    ]


def newest_score(metrics: Iterable[Path]) -> Score | None:
    """The score of the latest step among metrics files, None if there is none."""
    found: dict[int, dict[str, Any]] = {}
    for path in metrics:
        try:
            lines = path.read_bytes().splitlines(keepends=True)
        except FileNotFoundError:  # moved meanwhile
            continue
        scored = (line for line in reversed(lines) if b'"held_out_loss"' in line)
        whole = next((line for line in scored if line.endswith(b"\n")), None)
        if whole is not None:
            record = json.loads(whole)
            found[record["step"]] = record
    if not found:
        return None
    newest = found[max(found)]
    return Score(newest["step"] + 1, newest["held_out_loss"], newest["held_out_acceptance_length"])


def _steps(path: Path) -> int:
    """Whole lines of a metrics file; none if it was moved meanwhile."""
    try:
        return path.read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0
