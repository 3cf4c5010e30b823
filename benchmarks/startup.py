"""The start-up cost of each job: the scripts of a run on sixteen conversations.

    python -m benchmarks.startup

The jobs are those that Snakemake plans for a tiny target, run one after another as its shell would,
so nearly all of their CPU time is start-up. Each runs twice: once as it is, for the CPU seconds of
the process and its children, and once with Python's import timer, for the five top-level packages
that took most of it (milliseconds in their own modules).
"""

from __future__ import annotations

import os
import resource
import shlex
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from benchmarks.tables import parser, show
from eagle3.run import VARIABLE

ROOT = Path(__file__).resolve().parents[1]
COMMAND, LAUNCHER, REDIRECTIONS = "Shell command: ", "workflow_scripts.launch", (">", "2>&1", "|")
TINY: dict[str, Any] = {
    "run": "startup",
    "dataset": {"num_samples": 16, "shard_size": 16},
    "embedded_target": {
        "vocab_size": 400,
        "hidden_size": 32,
        "intermediate_size": 64,
        "epochs": 1,
        "batch_tokens": 16384,
    },
    "tokens": {"max_length": 128},
    "vocab": {"draft_vocab_size": 64},
    "train": {"epochs": 1, "epochs_per_stage": 1, "ttt_steps": 1, "pack_tokens": 4096},
    "evaluation": {"held_out_samples": 16, "num_prompts": 1, "max_new_tokens": 2},
    "resources": {"train": {"threads": 1, "processes": 1}},
}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--directory", type=Path, help="where the run lies; a temporary one")
    args = options.parse_args()
    with tempfile.TemporaryDirectory(dir=args.directory) as folder:
        jobs = planned(dry_run(Path(folder)))
        rows = [row(Path(folder), module, arguments) for module, arguments, _ in jobs]
    show("CPU seconds of each job of a run that has nothing to do", rows, args)


def dry_run(folder: Path) -> str:
    """The commands that Snakemake would run."""
    overlay = folder / "overlay.yaml"
    overlay.write_text(yaml.safe_dump(TINY))
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
    command += ["--directory", str(folder), "--cores", "1", "-n", "--printshellcmds"]
    command += ["--configfile", str(ROOT / "config.yaml"), str(overlay), "--", "train"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    return result.stdout + result.stderr


def planned(text: str) -> Iterator[tuple[str, list[str], int]]:
    """Module, arguments and processes of every job of a dry run with --printshellcmds, in its
    order."""
    for line in text.splitlines():
        if not line.startswith((f"{COMMAND}python", f"{COMMAND}trap")):
            continue  # the command of a rule without one is None
        arguments = shlex.split(line.removeprefix(COMMAND))
        names = [n for n, word in enumerate(arguments) if word.startswith("workflow_scripts.")]
        first = names[0] if arguments[names[0]] != LAUNCHER else names[1]
        job = arguments[first:]
        stop = next((n for n, word in enumerate(job) if word in REDIRECTIONS), len(job))
        processes_index = (
            arguments.index("--processes") + 1 if "--processes" in arguments[:first] else 0
        )
        yield job[0], job[1:stop], int(arguments[processes_index]) if processes_index else 1


def planned_run(folder: Path) -> dict[str, str]:
    """The variable by which the jobs of the newest dry run in `folder` find their run."""
    runs = (folder / ".snakemake" / "eagle3").glob("*-*.json")
    return {VARIABLE: str(max(runs, key=lambda path: path.stat().st_mtime_ns).absolute())}


def row(folder: Path, module: str, arguments: list[str]) -> dict[str, Any]:
    """CPU seconds of one job, and its slowest imports."""
    command = [sys.executable, "-m", module, *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "PASSIVE"}
    environment |= {"TOKENIZERS_PARALLELISM": "false"} | planned_run(folder)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run(command, folder, environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    import_times = run(command, folder, environment | {"PYTHONPROFILEIMPORTTIME": "1"})
    slowest = ", ".join(f"{name} {ms}" for name, ms in packages(import_times).most_common(5))
    return {"job": module.rpartition(".")[2], "CPU s": seconds, "dearest imports, ms": slowest}


def run(command: list[str], folder: Path, environment: dict[str, str]) -> str:
    """The stderr of a job, which must succeed."""
    result = subprocess.run(  # noqa: S603
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if result.returncode:
        sys.exit(f"{' '.join(command)}\n{result.stdout}{result.stderr}"[-4000:])
    return result.stderr


def packages(report: str) -> Counter[str]:
    """Milliseconds in the modules of each top-level package, from Python's import timer."""
    result: Counter[str] = Counter()
    for line in report.splitlines():
        if line.startswith("import time:") and "|" in line:
            microseconds, _, name = line.removeprefix("import time:").split("|")
            if microseconds.strip().isdigit():
                result[name.strip().partition(".")[0]] += int(microseconds)
    return Counter({name: micro // 1000 for name, micro in result.items()})


if __name__ == "__main__":
    main()
