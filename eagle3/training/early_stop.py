"""Early stop: a stage that would train on is left out once held-out acceptance has not risen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from eagle3.errors import UserError
from eagle3.files.artifact import REMAKE, Settings, part_of, read_json, write_text
from eagle3.training.checkpoint import read_checkpoint, write_checkpoint

SCORE = "held-out-acceptance"  # kind of the file that says how good a stage's checkpoint is


def is_exhausted(lengths: Sequence[float], patience: int) -> bool:
    """Whether the last `patience` of the stages before, given by their acceptance lengths, brought
    nothing better than an earlier one. Once true it stays true, since a stage that is left out
    has the acceptance of the one before it."""
    return len(lengths) > 0 and len(lengths) - 1 - lengths.index(max(lengths)) >= patience


def lengths_before(scores: Sequence[str], digest: str) -> list[float]:
    """Held-out acceptance lengths in the score files of the stages before.

    Raises UserError if one of them is of another training than that of the settings `digest`.
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
    """The checkpoint in `previous` becomes that of `stage`, untrained and marked as such; metrics
    stay empty."""
    checkpoint = read_checkpoint(previous, settings.digest)
    inputs = {"code": code}
    state = checkpoint.state | {"stage": stage, "stopped_early": True, "inputs": inputs}
    write_checkpoint(out, replace(checkpoint, state=state), settings, inputs)
    write_text(metrics, "")
