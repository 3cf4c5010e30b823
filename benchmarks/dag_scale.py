"""What Snakemake itself costs with many shards: planning, doing nothing, and starting jobs.

    python -m benchmarks.dag_scale --shards 250 500 1000 2000

The workflow is the real one, in a folder of links to the project whose Snakefile ends with a few
lines more: every job only makes its outputs, in a real shell. `plan` is the dry run of everything,
`jobs` the run of it, `idle` a dry run afterwards. CPU seconds are those of Snakemake and all its
children; on a busy machine they tell more than wall seconds. `growth` is the power of the number of
jobs with which they grew since the row above: 1 is linear.
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
# the names of the first arguments are those that Snakemake gives to the function of a rule
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
    args = parser(__doc__)
    args.add_argument("--shards", type=int, nargs="+", default=[250, 500, 1000, 2000])
    args.add_argument("--overlay", type=Path, help="more configuration, such as rolling windows")
    args.add_argument("--rounds", type=int, default=3, help="of dry runs; the fastest counts")
    args.add_argument("--cores", type=int, default=2)
    args.add_argument("--plan-only", action="store_true", help="run nothing, so no `idle` either")
    args.add_argument("--scheduler-subsample", type=int, help="Snakemake's option, for the jobs")
    given = args.parse_args()
    result = [measure(shards, given) for shards in given.shards]
    before = [None, *result]
    rows = [row(*three) for three in zip(given.shards, result, before, strict=False)]
    show("Snakemake's own time", rows, given)


def measure(shards: int, given: Namespace) -> dict[str, Call]:
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
        files += [str(given.overlay.absolute())] if given.overlay else []
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(snakefile)]
        command += ["--directory", str(work), "--cores", str(given.cores)]

        looked_at = given.scheduler_subsample
        subsample = ["--scheduler-subsample", str(looked_at)] if looked_at else []

        def fastest(*arguments: str, rounds: int = given.rounds) -> Call:
            whole = [*command, *arguments, "--configfile", *files]
            calls = [call(whole, Path(name)) for _ in range(rounds)]
            return min(calls, key=lambda one: one.cpu)

        result = {"plan": fastest("-n")}
        if not given.plan_only:  # in this order: what is planned, is made, and is there
            result["jobs"] = fastest(*subsample, rounds=1)
            result["idle"] = fastest("-n")
        return result


def linked_project(folder: Path) -> Path:
    """A Snakefile with empty jobs, and beside it links to the rest of the project."""
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
        begin = time.perf_counter()
        process = subprocess.Popen(  # noqa: S603 - our own command
            command, env=environment, stdout=out, stderr=out
        )
        _, status, used = os.wait4(process.pid, 0)
        wall = time.perf_counter() - begin
    text = log.read_text(encoding="utf-8")
    if status:
        raise SystemExit(f"{' '.join(command)} failed:\n{text[-2000:]}")
    total = re.search(r"^total +(\d+)", text, flags=re.MULTILINE)
    cpu, megabytes = used.ru_utime + used.ru_stime, used.ru_maxrss / 1024
    return Call(wall, cpu, megabytes, int(total[1]) if total else 0)


def row(shards: int, calls: dict[str, Call], before: dict[str, Call] | None) -> dict[str, Any]:
    """One line of the table."""
    if "idle" in calls and calls["idle"].jobs:
        raise SystemExit(f"{calls['idle'].jobs} jobs would run again after all were made")
    jobs = calls["plan"].jobs
    line: dict[str, Any] = {"shards": shards, "jobs": jobs}
    for name, one in calls.items():
        line[f"{name} s"], line[f"{name} CPU s"] = one.wall, one.cpu
        line[f"{name} MB"] = one.megabytes
        line[f"{name} growth"] = ""
        if before:
            more = jobs / before["plan"].jobs
            line[f"{name} growth"] = math.log(one.cpu / before[name].cpu, more)
    return line


if __name__ == "__main__":
    main()
