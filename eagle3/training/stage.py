"""One stage of training: some epochs over the shards, from one checkpoint to the next.

The batches are a function of the schedule alone; ranks share each batch by dealing out its packs.
The loss is divided by n_0 of the whole batch before the backward pass, so gradients are summed
over packs and ranks, never averaged.
"""

from __future__ import annotations

import json
import logging
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eagle3.draft.model import Eagle3Draft
from eagle3.errors import UserError
from eagle3.objective.ttt import StepTotals, TargetParts, ttt_loss
from eagle3.ranks import Ranks
from eagle3.tokens.packing import PackingSettings, batches
from eagle3.tokens.schedule import packs_digest, stage_packs
from eagle3.training.checkpoint import Checkpoint, ResumeFolder
from eagle3.training.loader import TrainingData, read_ahead
from eagle3.training.optimizer import (
    build_optimizer,
    learning_rate,
    optimizer_tensors,
    restore_optimizer,
)
from eagle3.training.stopping import StopRequest

log = logging.getLogger(__name__)
LOG_SECONDS = 5.0


@dataclass(frozen=True)
class TrainSettings:
    """The configuration's `train` section."""

    epochs: int
    epochs_per_stage: int
    ttt_steps: int
    step_decay: float
    learning_rate: float
    lr_schedule: str
    warmup_ratio: float
    weight_decay: float
    max_grad_norm: float
    pack_tokens: int
    packs_per_batch: int
    precision: str
    seed: int


@dataclass(frozen=True)
class Step:
    """One optimiser step of the plan."""

    number: int  # global, from 0
    epoch: int
    packs: list[np.ndarray]  # of all ranks


class StageTrainer:
    """Trains one stage on this rank."""

    def __init__(
        self,
        draft: Eagle3Draft,
        target: TargetParts,
        data: TrainingData,
        settings: TrainSettings,
        schedule: dict[str, Any],
        stage: int,
        ranks: Ranks,
    ) -> None:
        """Raises UserError if the shards do not give the packs that the schedule was made for."""
        self.draft, self.target, self.data = draft, target, data
        self.settings, self.ranks, self.stage = settings, ranks, stage
        self.stop = StopRequest()
        self.total_steps = int(schedule["total_steps"])
        self.first_step = int(schedule["stages"][stage - 1]["first_step"])
        self.optimizer = build_optimizer(draft, settings.weight_decay)
        self.steps = _planned(data, settings, schedule["stages"][stage - 1])

    def restore(self, checkpoint: Checkpoint) -> int:
        """Take over weights and optimiser state; return the global step to go on from."""
        self.draft.load_state_dict(checkpoint.model)
        restore_optimizer(self.draft, self.optimizer, checkpoint.optimizer)
        return int(checkpoint.state["global_step"])

    def checkpoint(self, global_step: int, more: dict[str, Any]) -> Checkpoint:
        """The present state, on the CPU."""
        return Checkpoint(
            {name: value.cpu() for name, value in self.draft.state_dict().items()},
            {n: t.cpu() for n, t in optimizer_tensors(self.draft, self.optimizer).items()},
            {
                "global_step": global_step,
                "total_steps": self.total_steps,
                "stage": self.stage,
                "draft": self.draft.config.to_dict(),
                **more,
            },
        )

    def run(self, first_step: int, resume: ResumeFolder, save_interval: int, metrics: Path) -> int:
        """Train from `first_step` to the end of the stage; return the next global step.

        Raises UserError when a loss or gradient is not finite (the newest save stays usable), and
        when any rank was asked to stop, after a save.
        """
        todo = [step for step in self.steps if step.number >= first_step]
        mine = [pack for step in todo for pack in self._dealt(step)]
        packs = iter(read_ahead(self.data, mine, self.ranks.device))
        logged = time.monotonic()
        with open(metrics, "a", encoding="utf-8") as out:
            for step in todo:
                record, stopping = self._step(step, packs)
                out.write(json.dumps(record) + "\n")
                last = step is todo[-1]
                if self.ranks.first and (last or time.monotonic() - logged > LOG_SECONDS):
                    logged = time.monotonic()
                    log.info(_line(record, self.total_steps, self.steps[-1].number))
                due = (step.number + 1) % save_interval == 0 and not last
                if self.ranks.first and (due or stopping):
                    out.flush()
                    resume.save(self.checkpoint(step.number + 1, {"inputs": resume.inputs}))
                if stopping:
                    self._stop(step.number + 1)
        return self.steps[-1].number + 1 if self.steps else first_step

    def _stop(self, step: int) -> None:
        """Leave together, after the save: torchrun ends the others soon after one has left."""
        self.ranks.barrier()
        if not self.ranks.first:
            sys.exit(1)  # one rank says why
        raise UserError(f"stopped by SIGTERM at step {step}; the next call goes on from there")

    def _dealt(self, step: Step) -> list[np.ndarray]:
        """Packs of a step that fall to this rank."""
        return step.packs[self.ranks.rank :: self.ranks.world]

    def _step(self, step: Step, packs: Iterator[Any]) -> tuple[dict[str, Any], bool]:
        """One optimiser step over the packs of all ranks; also: was any of them asked to stop?"""
        started = time.monotonic()
        settings, device = self.settings, self.ranks.device
        rows = self.data.rows(step.packs)
        totals = StepTotals.zeros(settings.ttt_steps, device)
        narrow = settings.precision == "bfloat16"
        waited = 0.0
        for _ in self._dealt(step):
            waiting = time.monotonic()
            pack = next(packs)
            waited += time.monotonic() - waiting
            with torch.autocast(device.type, torch.bfloat16, enabled=narrow):
                loss, counted = ttt_loss(
                    self.draft, pack, self.target, settings.ttt_steps, settings.step_decay
                )
            if loss.requires_grad:
                (loss / rows).backward()
            totals.add(counted)
        totals, stopping = self._over_ranks(totals)
        norm = self._update(step.number)
        record = _record(step, rows, totals, settings, norm)
        seconds = time.monotonic() - started
        tokens = int(sum(self.data.documents.lengths[pack].sum() for pack in step.packs))
        record |= {
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "tokens": tokens,
            "seconds": seconds,
            "fetch_seconds": waited,
            "tokens_per_second": tokens / seconds,
        }
        if not (math.isfinite(record["loss"]) and math.isfinite(norm)):
            raise UserError(
                f"step {step.number}: loss is {record['loss']}, gradient norm {norm}; lower "
                "train.learning_rate or check the states; the last save is usable"
            )
        return record, bool(stopping)

    def _over_ranks(self, totals: StepTotals) -> tuple[StepTotals, torch.Tensor]:
        """Totals of all ranks, and how many were asked to stop: one sum for both."""
        stacked = totals.stacked()
        asked = stacked.new_tensor([self.stop.asked])
        summed = self.ranks.sum(torch.cat([stacked.flatten(), asked]))
        return StepTotals.unstacked(summed[:-1].view_as(stacked)), summed[-1]

    def _update(self, number: int) -> float:
        """Sum gradients over ranks, clip by the global norm, step; return the norm."""
        settings = self.settings
        parameters = list(self.draft.parameters())
        for parameter in parameters:
            if parameter.grad is None:  # a rank without active rows still takes part
                parameter.grad = torch.zeros_like(parameter)
        if self.ranks.world > 1:
            gradients = [p.grad for p in parameters if p.grad is not None]
            flat = torch.cat([g.flatten() for g in gradients])
            for gradient, part in zip(
                gradients, self.ranks.sum(flat).split([g.numel() for g in gradients]), strict=True
            ):
                gradient.copy_(part.view_as(gradient))
        norm = torch.nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm)
        rate = learning_rate(
            number,
            self.total_steps,
            settings.learning_rate,
            settings.warmup_ratio,
            settings.lr_schedule,
        )
        if math.isfinite(norm.item()):
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm.item()


def _planned(data: TrainingData, settings: TrainSettings, planned: dict[str, Any]) -> list[Step]:
    """The steps of a stage, checked against the schedule."""
    packing = PackingSettings.of(vars(settings))
    plans = stage_packs(data.documents, packing, planned["epochs"])
    if packs_digest(plans) != planned["packs_digest"]:
        raise UserError(
            f"stage {planned['stage']}: the token shards do not give the packs of the schedule; "
            "delete schedule.json and run snakemake again"
        )
    steps: list[Step] = []
    for epoch, packs in zip(planned["epochs"], plans, strict=True):
        for batch in batches(packs, packing.packs_per_batch):
            steps.append(Step(planned["first_step"] + len(steps), epoch, batch))
    return steps


def _record(
    step: Step, rows: int, totals: StepTotals, settings: TrainSettings, norm: float
) -> dict[str, Any]:
    """One line of the metrics file. Per-step losses are means over trained rows; accuracy and
    acceptance are divided by all rows that the mask allows."""
    weights = [settings.step_decay**k for k in range(settings.ttt_steps)]
    weight = torch.tensor(weights, dtype=torch.float64) / sum(weights)
    sums = {name: value.cpu() for name, value in vars(totals).items()}
    allowed = sums["in_mask"].clamp_min(1)
    return {
        "step": step.number,
        "epoch": step.epoch,
        "rows": rows,
        "loss": float((weight * sums["loss"]).sum() / rows),
        "loss_at": (sums["loss"] / sums["trained"].clamp_min(1)).tolist(),
        "accuracy_at": (sums["correct"] / allowed).tolist(),
        "acceptance_at": (sums["accepted"] / allowed).tolist(),
        "active": sums["active"].int().tolist(),
        "in_mask": sums["in_mask"].int().tolist(),
        "gradient_norm": norm,
        "clipped": norm > settings.max_grad_norm,
    }


def _line(record: dict[str, Any], total: int, last_of_stage: int) -> str:
    """A metrics record for people."""
    left = (last_of_stage - record["step"]) * record["seconds"]
    accuracy = " ".join(f"{value:.2f}" for value in record["accuracy_at"])
    return (
        f"step {record['step'] + 1}/{total} epoch {record['epoch'] + 1} "
        f"loss {record['loss']:.4f} accuracy {accuracy} lr {record['learning_rate']:.2e} "
        f"norm {record['gradient_norm']:.2f} {record['tokens_per_second']:.0f} tokens/s "
        f"stage ends in {left:.0f} s"
    )
