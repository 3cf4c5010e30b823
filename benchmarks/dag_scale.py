"""Snakemake's overhead with many shards: planning, an idle call, and starting jobs.

    python -m benchmarks.dag_scale --shards 250 500 1000 2000

The workflow is the real one, in a folder of links to the project whose Snakefile has a few extra
lines: every job only creates its outputs, in a real shell. `plan` is the dry run of everything,
`jobs` the run of it, `idle` a dry run afterwards. CPU seconds are those of Snakemake and all its
children; on a busy machine they are more meaningful than wall seconds. `growth` is the exponent by
which they grew with the number of jobs since the row above: 1 is linear.
"""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.tables import parser, show

ROOT = Path(__file__).resolve().parents[1]
SHARD_SIZE = 16
# the first arguments have the names that Snakemake passes to a rule's function
EMPTY_JOBS = """

def make_outputs(input, output, *others):
    bench_record = others[11]
    shell("touch {output:q}", bench_record=bench_record)


for each in workflow.rules:
    if each.shellcmd:
        each.run_func = make_outputs
"""


@dataclass(frozen=True)
class Call:
    """Seconds and memory of one call of Snakemake, and the jobs it planned."""

    wall: float
    cpu: float
    megabytes: float  # of the largest process
    jobs: int


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--shards", type=int, nargs="+", default=[250, 500, 1000, 2000])
    options.add_argument("--overlay", type=Path, help="more configuration, such as rolling windows")
    options.add_argument("--rounds", type=int, default=3, help="of dry runs; the fastest counts")
    options.add_argument("--cores", type=int, default=2)
    options.add_argument(
        "--plan-only", action="store_true", help="run nothing, so no `idle` either"
    )
    options.add_argument("--scheduler-subsample", type=int, help="Snakemake's option, for the jobs")
    args = options.parse_args()
    result = [measure(shards, args) for shards in args.shards]
    previous = [None, *result]
    rows = [row(*entry) for entry in zip(args.shards, result, previous, strict=False)]
    show("Snakemake's own time", rows, args)


def measure(shards: int, args: Namespace) -> dict[str, Call]:
    """The fastest calls with this many shards."""
    with tempfile.TemporaryDirectory(prefix="eagle3-scale-") as name:
        work = Path(name) / "work"
        work.mkdir()
        snakefile = linked_project(Path(name) / "project")
        overlay: dict[str, Any] = {
            "run": "scale",
            "dataset": {"num_samples": shards * SHARD_SIZE, "shard_size": SHARD_SIZE},
            "target": {"model": "hub:nobody/nothing"},  # no job downloads anything here
        }
        (work / "scale.yaml").write_text(yaml.safe_dump(overlay), encoding="utf-8")
        files = [str(work / "scale.yaml")]
        files += [str(args.overlay.absolute())] if args.overlay else []
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(snakefile)]
        command += ["--directory", str(work), "--cores", str(args.cores)]

        sample_size = args.scheduler_subsample
        subsample = ["--scheduler-subsample", str(sample_size)] if sample_size else []

        def fastest(*arguments: str, rounds: int = args.rounds) -> Call:
            full_command = [*command, *arguments, "--configfile", *files]
            calls = [call(full_command, Path(name)) for _ in range(rounds)]
            return min(calls, key=lambda timed: timed.cpu)

        result = {"plan": fastest("-n")}
        if not args.plan_only:  # the order matters
            result["jobs"] = fastest(*subsample, rounds=1)
            result["idle"] = fastest("-n")
        return result


def linked_project(folder: Path) -> Path:
    """A Snakefile with empty jobs, next to links to the rest of the project."""
    folder.mkdir()
    for path in ROOT.iterdir():
        if path.name not in ("Snakefile", ".snakemake", "results"):
            (folder / path.name).symlink_to(path)
    snakefile = folder / "Snakefile"
    snakefile.write_text((ROOT / "Snakefile").read_text() + EMPTY_JOBS, encoding="utf-8")
    return snakefile


def call(command: list[str], folder: Path) -> Call:
    """Run `command`, which prints into a file of `folder`."""
    log = folder / "log"
    # a stopped Slurm would make its plugin wait for seconds in each call
    scontrol = folder / "bin" / "scontrol"
    scontrol.parent.mkdir(exist_ok=True)
    scontrol.write_text("#!/bin/sh\nexit 1\n")
    scontrol.chmod(0o755)
    environment = os.environ | {"PATH": f"{scontrol.parent}:{os.environ['PATH']}"}
    with open(log, "w", encoding="utf-8") as out:
        started = time.perf_counter()
        process = subprocess.Popen(  # noqa: S603 - our own command
            command, env=environment, stdout=out, stderr=out
        )
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - started
    text = log.read_text(encoding="utf-8")
    if status:
        raise SystemExit(f"{' '.join(command)} failed:\n{text[-2000:]}")
    total = re.search(r"^total +(\d+)", text, flags=re.MULTILINE)
    cpu, megabytes = usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024
    return Call(wall, cpu, megabytes, int(total[1]) if total else 0)


def row(shards: int, calls: dict[str, Call], previous: dict[str, Call] | None) -> dict[str, Any]:
    """One line of the table."""
    if "idle" in calls and calls["idle"].jobs:
        raise SystemExit(f"{calls['idle'].jobs} jobs would run again after all were made")
    jobs = calls["plan"].jobs
    line: dict[str, Any] = {"shards": shards, "jobs": jobs}
    for name, current in calls.items():
        line[f"{name} s"], line[f"{name} CPU s"] = current.wall, current.cpu
        line[f"{name} MB"] = current.megabytes
        line[f"{name} growth"] = ""
        if previous:
            factor = jobs / previous["plan"].jobs
            line[f"{name} growth"] = math.log(current.cpu / previous[name].cpu, factor)
    return line


if __name__ == "__main__":
    main()
