"""What the stages before capture need as the dataset grows: CPU seconds and memory of each job.

    python -m benchmarks.data_scale --rows 10000 30000 100000

Real calls of the workflow up to the plan, on copies of the bundled conversations under other ids,
with a tiny target. Figures are those of Snakemake's own benchmark files, of a job's processes
together, the interpreter and its libraries included. `growth` is the power of the number of rows
with which seconds grew since the row above, less those of a job over 100 rows: 1 is linear.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from benchmarks.tables import parser, show
from eagle3.report.job_times import measured_jobs

ROOT = Path(__file__).resolve().parents[1]
RUN = "scale"
STAGES = ("dataset", "tokens", "vocab", "schedule", "plan")


def main() -> None:
    args = parser(__doc__)
    args.add_argument("--rows", type=int, nargs="+", default=[10_000, 30_000, 100_000])
    args.add_argument("--shard-size", type=int, default=5000)
    args.add_argument("--cores", type=int, default=2)
    given = args.parse_args()
    with tempfile.TemporaryDirectory() as place:
        # what a job takes before it has looked at many rows comes first
        result = [measured(Path(place), each, given) for each in (100, *given.rows)]
    rows = []
    for stage in STAGES:
        base, before = result[0][stage], None
        for number, figures in zip(given.rows, result[1:], strict=True):
            row = {"job": stage, "rows": number, **figures[stage]}
            own = max(row["CPU s"] - base["CPU s"], 1e-3)
            grown = math.log(own / before[1], number / before[0]) if before else float("nan")
            rows.append({**row, "growth": grown})
            before = number, own
    show("growth with the dataset", rows, given)


def measured(place: Path, rows: int, given: Any) -> dict[str, dict[str, float]]:
    """Figures of each stage; of several jobs, those of the largest one."""
    folder = place / str(rows)
    folder.mkdir()
    source = folder / "rows.jsonl"
    few = folder / "few.jsonl"  # for the target, whose training is not measured
    for path, number in ((source, rows), (few, 60)):
        with open(path, "w", encoding="utf-8") as out:
            out.writelines(json.dumps(row) + "\n" for row in copies(number))
    overlay = {
        "run": RUN,
        "dataset": {
            "source": str(source),
            "num_samples": int(rows * 0.9),
            "shard_size": given.shard_size,
        },
        "embedded_target": {
            "source": str(few),
            "vocab_size": 400,
            "hidden_size": 32,
            "intermediate_size": 64,
        },
        "vocab": {"draft_vocab_size": 128},
    }
    (folder / "overlay.yaml").write_text(yaml.safe_dump(overlay))
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
    command += ["--directory", str(folder), "--cores", str(given.cores), "--quiet", "all"]
    command += ["--configfile", str(folder / "overlay.yaml"), "--", "plan"]
    subprocess.run(command, check=True)  # noqa: S603 - our own words
    times = folder / "results" / RUN / "benchmarks"
    return {stage: largest(times, stage) for stage in STAGES}


def copies(rows: int) -> Iterator[dict[str, Any]]:
    """The bundled conversations again and again, each with an id of its own."""
    lines = (ROOT / "data" / "demo_chat.jsonl").read_text(encoding="utf-8").splitlines()
    talks = [json.loads(line) for line in lines]
    for number in range(rows):
        talk = dict(talks[number % len(talks)])
        yield {**talk, "id": f"{number}"}


def largest(times: Path, stage: str) -> dict[str, float]:
    jobs = [figures for _, figures in measured_jobs(times, stage)]
    return {
        "jobs": len(jobs),
        "CPU s": max(figures["cpu_time"] for figures in jobs),
        "peak MB": max(figures["max_rss"] for figures in jobs),
    }


if __name__ == "__main__":
    main()
