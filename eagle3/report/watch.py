"""Progress of a run, from the files that its jobs write, on whatever machine they run."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from eagle3.errors import UserError


@dataclass(frozen=True)
class RunPart:
    """A part of the work: shards of tokens and of states, or optimiser steps."""

    name: str
    done: int
    total: int
    unit: str


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
    return [
        RunPart("hidden states", len(captured), shards * plan["captures"], "shards"),
        RunPart("training", sum(steps.values()), plan["steps"], "steps"),
    ]


def _steps(path: Path) -> int:
    """Whole lines of a metrics file; none if it was moved meanwhile."""
    try:
        return path.read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0
