"""What all scripts share: which job of which run it is, log lines, and how it ends."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from eagle3.files.artifact import Settings, write_text
from eagle3.run import VARIABLE, Run, load_run
from eagle3.target_model.files import resolve_target
from workflow_scripts import ending


@dataclass(frozen=True)
class Job:
    """A job of a run.

    `split`, `shard`, `stage`: which one of its rule; a stage of 0 is none. `checkpoint`,
    `previous`, `out`: files that Snakemake fetches from object storage or brings there, which are
    elsewhere than the run's own paths then.
    """

    run: Run
    split: str = "train"
    shard: int = 0
    stage: int = 0
    threads: int = 1
    checkpoint: Path = Path()  # its model.safetensors
    previous: Sequence[Path] = field(default_factory=list)
    out: Sequence[Path] = field(default_factory=list)

    def settings(self, stage: str) -> Settings:
        """What shapes the output of a stage of the workflow."""
        return self.run.settings[stage]

    @property
    def adapter(self) -> Path | None:
        """Folder of the LoRA adapter that the target is run with."""
        return Path(self.run.external.adapter) if self.run.external.adapter else None

    def target_folder(self, weights: bool = True) -> Path:
        """The target's folder, fetched from the hub if it is there; without `weights` only its
        small files."""
        return resolve_target(self.run.target, self.run.config.target.revision, weights)

    @property
    def first_rank(self) -> bool:
        """Whether this is the only process of the job, or the one that speaks for all."""
        return os.environ.get("RANK", "0") == "0"


def start(main: Callable[[Job], None], description: str | None) -> None:
    """Read which job this is and run it; every fault ends as in `ending.run`."""
    ending.run(lambda: main(read_job(description, sys.argv[1:])))


def read_job(description: str | None, words: Sequence[str]) -> Job:
    """The job that a command line names, of the run that Snakemake has planned it for."""
    args = ArgumentParser(description=description)
    args.add_argument(
        "--run-file", type=Path, help="results/<run>/run.json; by default Snakemake sets it"
    )
    args.add_argument("--split", choices=("train", "eval"), default="train")
    args.add_argument("--shard", type=int, default=0)
    args.add_argument("--stage", type=int, default=0)
    args.add_argument("--threads", type=int, default=1, help="CPU threads")
    args.add_argument(
        "--checkpoint",
        type=Path,
        default=Path(),
        help="model.safetensors of the checkpoint to read",
    )
    args.add_argument("--out", type=Path, nargs="*", default=[], help="files to write")
    args.add_argument(
        "--previous", type=Path, nargs="*", default=[], help="files of the previous checkpoint"
    )
    options = vars(args.parse_args(words))
    place = options.pop("run_file") or os.environ.get(VARIABLE)
    if place is None:
        args.error(f"--run-file is missing (or {VARIABLE}, which Snakemake sets)")
    job = Job(load_run(place), **options)
    if job.first_rank:
        _keep(job.run)
    return job


def _keep(run: Run) -> None:
    """Save the configuration next to the results, for people and for `load_run`."""
    path, text = Path(run.paths.snapshot), run.to_text()
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        write_text(path, text)
