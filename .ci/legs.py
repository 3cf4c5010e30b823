"""Which legs of CI are due: those that cover a changed file, and one in turn by date.

    python3 .ci/legs.py [--since COMMIT] [--today YYYY-MM-DD]

prints a line for each leg: `due` or `left-out`, its name, the minutes it takes on two idle cores,
and why. A change is what differs from the newest commit that is a day old. `make test` always runs.
Needs Python alone, since it is asked before anything is installed.
"""

from __future__ import annotations

import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path


@dataclass(frozen=True)
class Leg:
    """A target of the Makefile, and the files whose change makes it due: folders end with `/`."""

    minutes: int
    covers: tuple[str, ...]


# the jobs and files that every run goes through
RUN = ("eagle3/run.py", "eagle3/paths.py", "eagle3/workflow/")
RULES = ("Snakefile", "rules/", "workflow_scripts/", *RUN)
STATES = ("eagle3/capture/", "eagle3/store/")
CAPTURE = (*STATES, "eagle3/engines/", "eagle3/target_model/", "eagle3/tokens/shards.py")
FILES = ("eagle3/files/",)
PROCESSES = ("eagle3/parallel/",)
LEGS = {
    "test-dag": Leg(
        26,
        (
            *(*RULES, *FILES, "config.yaml", "presets/", "profiles/default/"),
            *("eagle3/config/", "eagle3/data/", "eagle3/imports/", *STATES, "tests/rules/"),
            "tests/fuzz/test_workflow.py",
        ),
    ),
    "test-ranks": Leg(
        5,
        (
            *(*PROCESSES, *FILES, "eagle3/training/", *STATES, "eagle3/objective/"),
            *("workflow_scripts/", "tests/training/", "tests/scripts/"),
        ),
    ),
    "test-slurm": Leg(
        13,
        (*PROCESSES, *RUN, "profiles/", "rules/", "workflow_scripts/launch.py", "tests/slurm/"),
    ),
    "test-container": Leg(
        9,
        ("envs/", "pyproject.toml", *RUN, "tests/container/"),
    ),
    "test-sglang": Leg(
        14,
        (
            *(*CAPTURE, "eagle3/export/", "envs/sglang", "tests/sglang/"),
            *("tests/builders/served.py", "tests/builders/real_servers.py"),
        ),
    ),
    "test-vllm": Leg(
        10,
        (
            *(*CAPTURE, "eagle3/export/", "eagle3/evaluation/server.py", "envs/vllm"),
            *(
                "tests/vllm/",
                "tests/engines/test_vllm.py",
                "tests/builders/served.py",
                "tests/builders/real_servers.py",
            ),
        ),
    ),
    "test-faults": Leg(
        6,
        (
            *(*FILES, *PROCESSES, "eagle3/training/", *STATES, "rules/"),
            *("workflow_scripts/entry.py", "workflow_scripts/launch.py", "tests/faults/"),
        ),
    ),
    "test-gpu": Leg(
        6,
        (
            *("eagle3/kernels/", "eagle3/objective/", "envs/gpu-test.txt", "tests/gpu/"),
            "tests/kernels/",
            *("benchmarks/gpu/", "benchmarks/training.py", "tests/benchmarks/"),
        ),
    ),
    "test-types": Leg(
        5,
        (
            *("eagle3/draft/", "eagle3/engines/hf.py", "eagle3/target_model/"),
            *("eagle3/evaluation/caches.py", "docs/targets.md", "tests/model_types/"),
        ),
    ),
    "test-real": Leg(
        10,
        ("eagle3/export/", "envs/real.txt", "benchmarks/real/", "tests/real/"),
    ),
}
# what `make test` covers as well as a leg would
ALWAYS = (
    *("eagle3/", "benchmarks/", "data/", "docs/", "tests/", "README.md", "SECURITY.md", "LICENSE"),
    *("CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", ".github/", ".pre-commit-config.yaml"),
    *("Makefile", ".ci/", ".gitignore", ".snakemake-workflow-catalog.yml", "slurm"),
    *("setup.py", "MANIFEST.in"),
)


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--since", help="a commit; else the newest that is a day old")
    parser.add_argument("--all", action="store_true", help="every leg is due")
    parser.add_argument("--today", type=date.fromisoformat, default=date.today())
    args = parser.parse_args()
    since = None if args.all else args.since or day_old()
    changed = changed_files(since) if since else None
    for name, why in reasons(changed, args.today).items():
        word = "left-out" if why.startswith("no file") else "due"
        print(word, name, LEGS[name].minutes, why)


def reasons(changed: Iterable[str] | None, today: date) -> dict[str, str]:
    """Why each leg is due or not. `changed` None: all are."""
    turn = in_turn(today)
    why = {}
    for name, leg in LEGS.items():
        hit = None if changed is None else covered(changed, leg.covers)
        if changed is None:
            why[name] = "everything is taken as new"
        elif hit:
            why[name] = f"it covers {hit[0]}" + (f" and {len(hit) - 1} more" if hit[1:] else "")
        elif name == turn:
            why[name] = "it is its turn today"
        else:
            why[name] = (
                f"no file that it covers has changed; its turn is on {next_turn(name, today)}"
            )
    return why


def in_turn(today: date) -> str:
    """The leg that runs on a day whatever has changed."""
    return list(LEGS)[today.toordinal() % len(LEGS)]


def next_turn(name: str, today: date) -> date:
    days = (today + timedelta(n) for n in range(1, len(LEGS) + 1))
    return next(day for day in days if in_turn(day) == name)


def covered(files: Iterable[str], prefixes: tuple[str, ...]) -> list[str]:
    """Those of the files that lie under one of the prefixes."""
    return [file for file in files if file.startswith(prefixes)]


def day_old() -> str | None:
    """The newest commit of the branch that is a day old."""
    return git("rev-list", "-1", "--before=24.hours", "HEAD").strip() or None


def changed_files(since: str) -> list[str]:
    """Files that differ between a commit and the working tree."""
    return git("diff", "--name-only", since).splitlines()


def git(*words: str) -> str:
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(  # noqa: S603
        ["git", *words],  # noqa: S607
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
