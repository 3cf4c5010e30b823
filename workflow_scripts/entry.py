"""Common code of all scripts: reading the job from the command line, and running it."""

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

    `split`, `shard`, `stage`: wildcards of its rule; stage 0 means none. `checkpoint`, `previous`,
    `out`: files that Snakemake may transfer from or to object storage, and whose paths then differ
    from the run's.
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
        """Settings of a stage of the workflow."""
        return self.run.settings[stage]

    @property
    def adapter(self) -> Path | None:
        """Folder of the target's LoRA adapter, if any."""
        return Path(self.run.external.adapter) if self.run.external.adapter else None

    def target_folder(self, weights: bool = True) -> Path:
        """The target's folder, downloaded if it is on the hub; without `weights` only its small
        files."""
        return resolve_target(self.run.target, self.run.config.target.revision, weights)

    @property
    def first_rank(self) -> bool:
        """Whether this is the only process of the job, or rank 0."""
        return os.environ.get("RANK", "0") == "0"


def start(main: Callable[[Job], None], description: str | None) -> None:
    """Read the job from the command line and run it; errors end as in `ending.run`."""
    ending.run(lambda: main(read_job(description, sys.argv[1:])))


def read_job(description: str | None, arguments: Sequence[str]) -> Job:
    """The job of a command line, and of the run that Snakemake planned it for."""
    parser = ArgumentParser(description=description)
    parser.add_argument(
        "--run-file", type=Path, help="results/<run>/run.json; by default Snakemake sets it"
    )
    parser.add_argument("--split", choices=("train", "eval"), default="train")
    parser.add_argument("--shard", type=int, default=0)
    parser.add_argument("--stage", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument(
        "--checkpoint",
        type=Path,
        default=Path(),
        help="model.safetensors of the checkpoint to read",
    )
    parser.add_argument("--out", type=Path, nargs="*", default=[], help="files to write")
    parser.add_argument(
        "--previous", type=Path, nargs="*", default=[], help="files of the previous checkpoint"
    )
    options = vars(parser.parse_args(arguments))
    run_file = options.pop("run_file") or os.environ.get(VARIABLE)
    if run_file is None:
        parser.error(f"--run-file is missing (or {VARIABLE}, which Snakemake sets)")
    job = Job(load_run(run_file), **options)
    if job.first_rank:
        _save_snapshot(job.run)
    return job


def _save_snapshot(run: Run) -> None:
    """Save the configuration next to the results, for people and for `load_run`."""
    path, text = Path(run.paths.snapshot), run.to_text()
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        write_text(path, text)
