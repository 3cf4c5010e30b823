"""The content of the report and the model cards, collected from the files of a run."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from eagle3.report.job_times import measured_jobs
from eagle3.report.origin import Origin
from eagle3.report.outcome import warnings_of
from eagle3.report.speedup import Estimate, estimate_of


@dataclass(frozen=True)
class RunFacts:
    """Everything about a finished run that the report and the cards show."""

    config: dict[str, Any]
    origin: Origin
    dataset: dict[str, Any]  # rows.report.json
    vocab: dict[str, Any]  # mapping.json
    plan: dict[str, Any]
    evaluation: dict[str, Any]
    metrics: pd.DataFrame  # one row per optimiser step
    tokens: dict[str, Any]  # counts added up over the token shards
    capture: dict[str, Any]  # results of the self-checks, merged
    seconds: dict[str, float]  # rule name: wall time, added up over its jobs
    stages: list[dict[str, Any]] = field(default_factory=list)  # held-out figures of each stage
    exported: int | None = None  # the stage that was exported
    tensor_parallel: int = 1  # GPUs that one copy of the target was captured with

    @cached_property
    def worth(self) -> Estimate:
        """The speed-up that the acceptance should bring."""
        return estimate_of(self.evaluation, self.plan)

    @cached_property
    def warnings(self) -> list[str]:
        """What to read before trusting the figures."""
        return warnings_of(self.config["evaluation"], self.plan, self.evaluation)


def read_metrics(paths: list[Path]) -> pd.DataFrame:
    """Metrics of all stages, one row per optimiser step, with the number of its stage."""
    records: list[dict[str, Any]] = []
    for stage, path in enumerate(paths, start=1):
        lines = path.read_text(encoding="utf-8").splitlines()
        records += [json.loads(line) | {"stage": stage} for line in lines]
    return pd.DataFrame(records)


def add_counts(counts: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts of token shards, added up; causes of dropped rows too."""
    dropped: dict[str, int] = {}
    for count in counts:
        for cause, number in count["dropped"].items():
            dropped[cause] = dropped.get(cause, 0) + number
    names = ("rows", "documents", "tokens", "supervised", "truncated")
    return {name: sum(count[name] for count in counts) for name in names} | {"dropped": dropped}


def add_checks(checks: list[dict[str, Any]]) -> dict[str, Any]:
    """The self-checks of all shards, merged: sums, and the least cosine of any layer."""
    cosines = [value for check in checks for value in check["cosines"].values()]
    return {
        "aux_layers": checks[0]["aux_layers"],
        "bytes": sum(check["bytes"] for check in checks),
        "rows": sum(check["rows"] for check in checks),
        "argmax_agrees": sum(check["argmax_agrees"] for check in checks),
        "least_cosine": min(cosines, default=None),
    }


def wall_times(folder: Path) -> dict[str, float]:
    """Seconds per rule, the longest first."""
    totals: dict[str, float] = {}
    for rule, figures in measured_jobs(folder):
        totals[rule] = totals.get(rule, 0.0) + figures.get("s", 0.0)
    return dict(sorted(totals.items(), key=lambda item: -item[1]))
