"""The record of a step: a line of the metrics file, and a sentence for people."""

from __future__ import annotations

import json
from io import FileIO
from typing import Any

import torch

from eagle3.draft.config import DraftConfig
from eagle3.errors import UserError
from eagle3.objective.losses import step_weights
from eagle3.objective.step_totals import StepTotals
from eagle3.training.step import StepResult


def quality_figures(rows: int, totals: StepTotals, decay: float) -> dict[str, Any]:
    """Loss, accuracy and acceptance of a step. Per-step losses are means over trained rows;
    accuracy and acceptance are divided by all rows that the mask allows."""
    sums = {name: value.cpu() for name, value in vars(totals).items()}
    weights = torch.tensor(step_weights(len(sums["loss"]), decay), dtype=torch.float64)
    allowed = sums["in_mask"].clamp_min(1)
    return {
        "rows": rows,
        "loss": float((weights * sums["loss"]).sum() / rows),
        "loss_at": (sums["loss"] / sums["trained"].clamp_min(1)).tolist(),
        "accuracy_at": (sums["correct"] / allowed).tolist(),
        "acceptance_at": (sums["accepted"] / allowed).tolist(),
        "active": sums["active"].int().tolist(),
        "in_mask": sums["in_mask"].int().tolist(),
    }


def speed_figures(
    result: StepResult,
    draft: DraftConfig,
    tokens: int,
    aux_rows: int,
    supervised: int,
    world: int,
    matrix_rate: float,
    device: str,
) -> dict[str, Any]:
    """Time by phase, throughput, and device. `matrix_rate` and `device`: FLOP/s and name of this
    rank's device."""
    seconds = sum(result.seconds.values())
    rate = result.totals.work(aux_rows).flops(draft) / seconds
    return {
        "tokens": tokens,
        "seconds": seconds,
        **{f"{phase}_seconds": phase_seconds for phase, phase_seconds in result.seconds.items()},
        "tokens_per_second": tokens / seconds,
        "supervised_per_second": supervised / seconds,
        "gflops": rate / 1e9,
        "matrix_rate_share": rate / (world * matrix_rate),
        "ranks": world,
        "device": device,
    }


def progress_line(record: dict[str, Any], total: int, last_of_stage: int) -> str:
    """A metrics record for people."""
    seconds_left = (last_of_stage - record["step"]) * record["seconds"]
    accuracy = " ".join(f"{value:.2f}" for value in record["accuracy_at"])
    waiting_share = record["fetch_seconds"] / record["seconds"]
    held_out = ""
    if "held_out_loss" in record:
        held_out = (
            f", held out: loss {record['held_out_loss']:.4f}, "
            f"acceptance length {record['held_out_acceptance_length']:.3f}"
        )
    return (
        f"step {record['step'] + 1}/{total} epoch {record['epoch'] + 1} "
        f"loss {record['loss']:.4f} accuracy {accuracy} lr {record['learning_rate']:.2e} "
        f"norm {record['gradient_norm']:.2f} {record['tokens_per_second']:.0f} tokens/s "
        f"({record['matrix_rate_share']:.0%} of the matrix rate, {waiting_share:.0%} waiting for "
        f"states) stage ends in {seconds_left:.0f} s{held_out}"
    )


def append_record(metrics: FileIO, record: dict[str, Any]) -> None:
    """Append a record to an unbuffered metrics file: readers see it at once. Raises UserError if
    the disk is full."""
    text = json.dumps(record).encode() + b"\n"
    try:
        while text:  # a nearly full disk takes a part of it
            text = text[metrics.write(text) :]
    except OSError as fault:
        raise UserError(f"{metrics.name}: cannot be written: {fault.strerror}") from None
