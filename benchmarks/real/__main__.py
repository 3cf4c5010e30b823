"""A published chat model end to end on this machine: two and a half hours on two idle cores.

    make real
    make real ARGS="--small"                    # every step in minutes, without meaning
    make real ARGS="--engines vllm"

Calls Snakemake on benchmarks/real/Snakefile in the folder results/real. Whatever ends the call, the
same call goes on from there. It ends with results/real/real.json, of which
`python -m benchmarks.real.page` makes docs/results.md.
"""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import yaml

from eagle3.config.files import read_files
from eagle3.errors import UserError
from eagle3.files.artifact import write_text
from eagle3.workflow.target_dtype import measured_rates
from workflow_scripts import ending

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
ENGINES = ("vllm", "sglang")


def main() -> None:
    args = ArgumentParser(description=__doc__)
    args.add_argument("--small", action="store_true", help="minutes instead of hours")
    args.add_argument("--config", type=Path, help="what differs from benchmarks/real/config.yaml")
    args.add_argument("--packages", help="folder of envs/real.txt")
    for name in ENGINES:
        args.add_argument(f"--{name}", metavar="PYTHON", help="interpreter that has this engine")
    args.add_argument("--engines", nargs="+", metavar="NAME", help="only these")
    args.add_argument("--folder", type=Path, help="results/real, or results/real-small")
    args.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)))
    args.add_argument("goal", nargs="*", help="files to make; by default all")
    given = args.parse_args()
    small = [HERE / "small.yaml"] if given.small else []
    own = [given.config] if given.config else []
    config = read_files([HERE / "config.yaml", *small, *own])
    if given.packages:
        config["model"]["packages"] = given.packages
    for name in ENGINES:
        if python := getattr(given, name):
            config["engines"][name]["python"] = python
    if given.engines:
        config = only(config, given.engines)
    folder = given.folder or Path("results", "real-small" if given.small else "real")
    folder.mkdir(parents=True, exist_ok=True)
    config = settled(config, folder / "config.yaml")
    write_text(folder / "config.yaml", yaml.safe_dump(config, sort_keys=False))
    command = [
        *(sys.executable, "-m", "snakemake", "--snakefile", str(HERE / "Snakefile")),
        *("--directory", str(folder), "--cores", str(given.cores), "--rerun-incomplete"),
        # a lock that a kill has left would stay; each step lets nobody else into its folder
        *("--nolock", "--configfile", str(folder / "config.yaml"), "--", *given.goal),
    ]
    # in the place of this process, so signals are Snakemake's own
    os.execve(sys.executable, command, os.environ | {"PYTHONPATH": str(ROOT)})  # noqa: S606


def settled(config: dict[str, Any], begun: Path) -> dict[str, Any]:
    """The configuration with a type in place of each `auto`: what this processor multiplies faster.

    A run that has begun goes on with the types that it began with: others would be another run.
    """
    arguments, train = config["answers"].get("arguments", {}), config["draft"]["train"]
    keys = [(arguments, "dtype"), (train, "precision")]
    if not any(values.get(key) == "auto" for values, key in keys):
        return config
    if begun.exists():
        known = yaml.safe_load(begun.read_text(encoding="utf-8"))
        types = [known["answers"].get("arguments", {}), known["draft"]["train"]]
        precision = types[1]["precision"]  # also where another engine answered, with no type
        chosen = [types[0].get("dtype", precision), precision]
    else:
        rates = measured_rates(["float32", "bfloat16"], 1)
        faster = max(rates, key=lambda name: rates[name])
        print(f"answers and training in {faster}, which is faster here")
        chosen = [faster, faster]
    for (values, key), dtype in zip(keys, chosen, strict=True):
        if values.get(key) == "auto":
            values[key] = dtype
    return config


def only(config: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """The configuration with these engines alone. Raises UserError for one that is not there."""
    engines = config["engines"]
    for name in names:
        if name not in engines:
            raise UserError(f"--engines: there is no {name!r}; choose from {', '.join(engines)}")
    answers = config["answers"]
    if answers["engine"] not in names:  # whose arguments are of no use to another
        answers = {**answers, "engine": names[0], "arguments": {}}
    return {
        **config,
        "engines": {name: engines[name] for name in names},
        "answers": answers,
    }


if __name__ == "__main__":
    ending.run(main)
