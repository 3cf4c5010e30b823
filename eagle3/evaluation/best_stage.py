"""Which stage's draft is the best: the one of the longest acceptance on held-out states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

KIND = "best-stage"
METRIC = "acceptance_length"
FIGURES = (
    "stage",
    "epochs_done",
    METRIC,
    f"{METRIC}_ci95",
    "per_position_acceptance",
    "stopped_early",
)


def choose(scores: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The best of some stages, the earliest of equals, and the figures of all.

    `scores`: what `held_out.simulate` gave for each stage, with its number.
    """
    best = max(scores, key=lambda score: (score[METRIC], -score["stage"]))
    stages = [
        {key: score[key] for key in FIGURES} | {"walk_acceptance_length": score["walk"][METRIC]}
        for score in scores
    ]
    return {"stage": best["stage"], "metric": METRIC, "stages": stages}
