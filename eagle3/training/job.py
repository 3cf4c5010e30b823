"""A stage as a job: its start, its outputs, and how it resumes after a kill."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

from eagle3.files.artifact import write_text
from eagle3.training.checkpoint import ResumeFolder, read_checkpoint, write_checkpoint
from eagle3.training.stage import StageTrainer

log = logging.getLogger(__name__)


def run_stage(
    trainer: StageTrainer,
    resume: ResumeFolder,
    previous: Path | None,
    save_interval: int,
    metrics: Path,
    out: Path,
) -> None:
    """Train the trainer's stage and write its checkpoint to `out` and its metrics to `metrics`.

    `previous`: checkpoint of the stage before, None for the first. Every rank calls this; the
    first one writes.
    """
    if not trainer.ranks.first:
        last = trainer.run(
            _start(trainer, resume, previous), resume, save_interval, Path(os.devnull)
        )
        trainer.checkpoint(last, {})
        trainer.ranks.barrier()
        return
    with resume.locked():
        first_step = _start(trainer, resume, previous)
        running_metrics = resume.folder / "metrics.jsonl"
        _drop_unsaved_records(running_metrics, first_step, fresh=first_step == trainer.first_step)
        last = trainer.run(first_step, resume, save_interval, running_metrics)
        write_text(metrics, running_metrics.read_text(encoding="utf-8"))
        checkpoint = trainer.checkpoint(last, {"inputs": resume.inputs})
        write_checkpoint(out, checkpoint, resume.settings, resume.inputs)
        # other ranks read saves only at their start, which is before this barrier
        trainer.ranks.barrier()
        # too late to stop, but torchrun may report a failure all the same
        if trainer.stop.requested:
            resume.save(checkpoint)
            return
        resume.clear()
        running_metrics.unlink()


def _start(trainer: StageTrainer, resume: ResumeFolder, previous: Path | None) -> int:
    """Load the newest save of this stage, else the previous stage; return the first step."""
    saved = resume.newest()
    if saved is not None:
        step = trainer.restore(saved)
        log.info("going on from the save at step %d", step)
        return step
    if previous is not None:
        return trainer.restore(read_checkpoint(previous, resume.settings.digest))
    return trainer.first_step


def _drop_unsaved_records(metrics: Path, first_step: int, fresh: bool) -> None:
    """Drop records that a killed job wrote after its last save."""
    saved_lines = []
    if metrics.exists() and not fresh:
        for line in metrics.read_text(encoding="utf-8").splitlines(keepends=True):
            # a kill can cut the last line short
            if line.endswith("\n") and json.loads(line)["step"] < first_step:
                saved_lines.append(line)
    write_text(metrics, "".join(saved_lines))  # atomic, in case this job is killed too
