"""The growth of the stages before capture with the dataset: CPU seconds and memory of each job.

    python -m benchmarks.data_scale --rows 10000 30000 100000

Real calls of the workflow up to the plan, on copies of the bundled conversations under other ids,
with a tiny target. Figures come from Snakemake's benchmark files: of all processes of a job, the
interpreter and its libraries included. `growth` is the exponent by which seconds, less those of a
job over 100 rows, grew with the number of rows since the row above: 1 is linear.
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
    options = parser(__doc__)
    options.add_argument("--rows", type=int, nargs="+", default=[10_000, 30_000, 100_000])
    options.add_argument("--shard-size", type=int, default=5000)
    options.add_argument("--cores", type=int, default=2)
    args = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        # the first is the baseline: the fixed cost of a job
        result = [measured(Path(folder), count, args) for count in (100, *args.rows)]
    rows = []
    for stage in STAGES:
        base, before = result[0][stage], None
        for number, figures in zip(args.rows, result[1:], strict=True):
            row = {"job": stage, "rows": number, **figures[stage]}
            net = max(row["CPU s"] - base["CPU s"], 1e-3)
            growth = math.log(net / before[1], number / before[0]) if before else float("nan")
            rows.append({**row, "growth": growth})
            before = number, net
    show("growth with the dataset", rows, args)


def measured(parent: Path, rows: int, args: Any) -> dict[str, dict[str, float]]:
    """Figures of each stage; with several jobs, those of the largest one."""
    folder = parent / str(rows)
    folder.mkdir()
    source = folder / "rows.jsonl"
    tiny = folder / "few.jsonl"  # for the target, whose training is not measured
    for path, number in ((source, rows), (tiny, 60)):
        with open(path, "w", encoding="utf-8") as out:
            out.writelines(json.dumps(row) + "\n" for row in copies(number))
    overlay = {
        "run": RUN,
        "dataset": {
            "source": str(source),
            "num_samples": int(rows * 0.9),
            "shard_size": args.shard_size,
        },
        "embedded_target": {
            "source": str(tiny),
            "vocab_size": 400,
            "hidden_size": 32,
            "intermediate_size": 64,
        },
        "vocab": {"draft_vocab_size": 128},
    }
    (folder / "overlay.yaml").write_text(yaml.safe_dump(overlay))
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
    command += ["--directory", str(folder), "--cores", str(args.cores), "--quiet", "all"]
    command += ["--configfile", str(folder / "overlay.yaml"), "--", "plan"]
    subprocess.run(command, check=True)  # noqa: S603 - our own command
    times = folder / "results" / RUN / "benchmarks"
    return {stage: largest(times, stage) for stage in STAGES}


def copies(rows: int) -> Iterator[dict[str, Any]]:
    """The bundled conversations, repeated under different ids."""
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
