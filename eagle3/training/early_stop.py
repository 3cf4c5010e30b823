"""Early stop: later stages are skipped once held-out acceptance no longer rises."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from eagle3.errors import UserError
from eagle3.files.artifact import REMAKE, Settings, part_of, read_json, write_text
from eagle3.training.checkpoint import read_checkpoint, write_checkpoint

SCORE = "held-out-acceptance"  # kind of the file with the score of a stage's checkpoint


def is_exhausted(lengths: Sequence[float], patience: int) -> bool:
    """Whether the last `patience` stages, given by their acceptance lengths, are not better than an
    earlier one. Once true it stays true: a skipped stage has the acceptance of the one before."""
    return len(lengths) > 0 and len(lengths) - 1 - lengths.index(max(lengths)) >= patience


def lengths_before(scores: Sequence[str], digest: str) -> list[float]:
    """Held-out acceptance lengths in the score files of earlier stages.

    Raises UserError if one of them belongs to another training than that of the settings `digest`.
    """
    lengths = []
    for path in map(Path, scores):
        figures, manifest = read_json(path, SCORE, part=part_of(path))
        if manifest.settings["upstream"]["train"] != digest:
            raise UserError(f"{path}: scores a checkpoint of other settings: {REMAKE}")
        lengths.append(figures["acceptance_length"])
    return lengths


def carry_on(
    previous: Path, stage: int, settings: Settings, code: str, metrics: Path, out: Path
) -> None:
    """Copy the checkpoint in `previous` as that of the skipped `stage`, marked as stopped early,
    and write empty metrics."""
    checkpoint = read_checkpoint(previous, settings.digest)
    inputs = {"code": code}
    state = checkpoint.state | {"stage": stage, "stopped_early": True, "inputs": inputs}
    write_checkpoint(out, replace(checkpoint, state=state), settings, inputs)
    write_text(metrics, "")
