"""One JSON file of everything that `make real` measured (the rule `result`)."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from benchmarks.tables import machine
from eagle3.files.artifact import write_text
from eagle3.report.job_times import measured_jobs
from workflow_scripts import ending


def gathered(given: Any) -> dict[str, Any]:
    """Everything that the page shows, and what it was measured with."""
    run = given.run
    plan, best = read(run / "plan.json"), read(run / "evaluation" / "best.json")
    decoded = read(run / "evaluation" / "acceptance.json")
    decoded.pop("per_prompt", None)
    incomplete: dict[str, int] = {}
    for report in sorted((run / "answers").rglob("*.report.json")):
        for cause, count in read(report)["incomplete"].items():
            incomplete[cause] = incomplete.get(cause, 0) + count
    return {
        "benchmark": "real",
        "machine": machine() | {"command": "make real"},
        "config": given.config,
        "model": read(given.model),
        "questions": read(given.counts),
        "answers": read(given.answers) | {"incomplete": incomplete},
        "training": {
            **read(given.trained),
            "tokens": plan["tokens"],
            "rows": plan["rows"],
            "steps": plan["steps"],
            "draft_parameters": plan["draft_parameters"],
            "bytes_states": plan["bytes_states"],
            "coverage": read(run / "vocab" / "mapping.json").get("coverage"),
            "jobs": jobs(run / "benchmarks"),
        },
        "stages": {**best, "spent": stage_times(run / "benchmarks" / "train")},
        "decoded": decoded,
        "served": [read(path) for path in given.served],
    }


def read(path: Path) -> dict[str, Any]:
    """A JSON file without its manifest."""
    content = json.loads(path.read_text(encoding="utf-8"))
    content.pop("manifest", None)
    return content


def jobs(folder: Path) -> dict[str, dict[str, float]]:
    """Seconds and CPU seconds of the pipeline's jobs by rule, as Snakemake's benchmarks say."""
    spent: dict[str, dict[str, float]] = {}
    for rule, figures in measured_jobs(folder):
        total = spent.setdefault(rule, {"jobs": 0, "seconds": 0.0, "cpu_seconds": 0.0})
        spent[rule] = {"jobs": total["jobs"] + 1} | _added(total, figures)
    return spent


def stage_times(folder: Path) -> list[dict[str, float]]:
    """Seconds and CPU seconds of training up to the end of each stage."""
    spent, total = [], {"seconds": 0.0, "cpu_seconds": 0.0}
    for _, figures in measured_jobs(folder, "stage-*"):
        total = _added(total, figures)
        spent.append(total)
    return spent


def _added(total: dict[str, float], figures: dict[str, float]) -> dict[str, float]:
    return {
        "seconds": round(total["seconds"] + figures.get("s", 0.0), 1),
        "cpu_seconds": round(total["cpu_seconds"] + figures.get("cpu_time", 0.0), 1),
    }


def main() -> None:
    args = ArgumentParser(description=__doc__)
    args.add_argument("--run", type=Path, required=True, help="results of the pipeline's run")
    args.add_argument("--config", type=json.loads, required=True)
    for name in ("model", "counts", "answers", "trained"):
        args.add_argument(f"--{name}", type=Path, required=True)
    args.add_argument("--served", type=Path, nargs="+", required=True)
    args.add_argument("--out", type=Path, required=True)
    given = args.parse_args()
    write_text(given.out, json.dumps(gathered(given), indent=1) + "\n")


if __name__ == "__main__":
    ending.run(main)
