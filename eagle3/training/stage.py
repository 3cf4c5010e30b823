"""One stage of training: some epochs over the shards, from one checkpoint to the next.

The batches are a function of the schedule alone; ranks share each batch by dealing out its packs.
"""

from __future__ import annotations

import logging
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eagle3.config.train import Train, TrainResources
from eagle3.draft.config import check_heads
from eagle3.draft.model import Eagle3Draft
from eagle3.errors import UserError
from eagle3.objective.memory import StepMemory
from eagle3.objective.pack import Pack
from eagle3.objective.sequence_parallel.sharding import SequenceSharding
from eagle3.objective.ttt import Objective, TargetParts
from eagle3.parallel.device import device_name
from eagle3.parallel.launcher import StopRequest
from eagle3.parallel.ranks import Ranks
from eagle3.progress import Progress
from eagle3.tokens.packing import batches
from eagle3.tokens.schedule import packs_digest, stage_packs
from eagle3.training.checkpoint import Checkpoint, ResumeFolder
from eagle3.training.data import TrainingData
from eagle3.training.data_parallel import masters_of
from eagle3.training.feature_noise import with_noise
from eagle3.training.loader import read_ahead
from eagle3.training.muon import DealtMuon
from eagle3.training.optimizer import (
    build_optimizers,
    learning_rate,
    muon_ratio,
    optimizer_tensors,
    restore_optimizer,
)
from eagle3.training.record import (
    append_record,
    progress_line,
    quality_figures,
    speed_figures,
)
from eagle3.training.speed import matrix_rate
from eagle3.training.step import StepRunner
from eagle3.training.tracker import Track

log = logging.getLogger(__name__)
DEFAULT_RESOURCES = TrainResources()


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
        train: Train,
        schedule: dict[str, Any],
        stage: int,
        ranks: Ranks,
        jobs: TrainResources = DEFAULT_RESOURCES,
    ) -> None:
        """Raises UserError if the shards do not give the packs of the schedule, or if ranks cannot
        share the draft's heads."""
        self.draft, self.target, self.data = draft, target, data
        self.train, self.ranks, self.stage, self.jobs = train, ranks, stage, jobs
        self.stop = StopRequest()
        self.track: Track | None = None  # takes the record of each step
        self.trace: Callable[[], None] | None = None  # is called after each step
        self.scorer: Callable[[Eagle3Draft], dict[str, Any]] | None = None  # on held-out states
        self.total_steps, self.all_steps = schedule["total_steps"], schedule["all_steps"]
        self.first_step = int(schedule["stages"][stage - 1]["first_step"])
        self.steps = _planned_steps(data, train, schedule["stages"][stage - 1])
        objective = objective_of(train, jobs.recompute)
        self.sharding = SequenceSharding(ranks, train.ttt_steps)
        if objective.attention == "usp":
            check_heads(draft.config, ranks.ulysses.size)
        self.masters = masters_of(jobs.data_parallel, draft, ranks)
        self.optimizers = build_optimizers(
            draft, train.optimizer, train.weight_decay, ranks, muon_ratio(train), objective.dtype
        )
        self.runner = StepRunner(
            draft,
            target,
            self.masters,
            self.optimizers,
            objective,
            train.max_grad_norm,
            ranks,
        )
        self.matrix_rate = matrix_rate(ranks.device, objective.dtype)

    def step_memory(self) -> StepMemory:
        """The estimated GPU memory of a step."""
        documents = self.data.documents
        # later steps have fewer rows
        active = documents.rows.sum() / max(documents.lengths.sum(), 1)
        muons = [optimizer for optimizer in self.optimizers if isinstance(optimizer, DealtMuon)]
        return StepMemory(
            self.draft.config,
            sum(p.numel() for p in self.draft.parameters() if p.requires_grad),
            [active] * self.train.ttt_steps,
            self.runner.objective.dtype.itemsize,
            self.jobs.recompute,
            self.ranks.world if self.jobs.data_parallel == "fsdp2" else 1,
            self.ranks.sequence.size,
            muon=sum(matrix.numel() for muon in muons for matrix in muon.owners),
        )

    def restore(self, checkpoint: Checkpoint) -> int:
        """Load weights and optimiser state; return the global step to continue from."""
        with torch.no_grad():
            for name, parameter in self.draft.named_parameters():
                parameter.copy_(self.masters.placed(checkpoint.model[name], parameter))
        restore_optimizer(self.draft, self.optimizers, checkpoint.optimizer, self.masters)
        return int(checkpoint.state["global_step"])

    def checkpoint(self, global_step: int, extra: dict[str, Any]) -> Checkpoint:
        """A copy of the current state on the CPU of the first rank; all ranks must call this, the
        others get an empty one."""
        return Checkpoint(
            self._copied(self.draft.named_parameters()),
            self._copied(optimizer_tensors(self.draft, self.optimizers)),
            {
                "global_step": global_step,
                "total_steps": self.total_steps,
                "all_steps": self.all_steps,
                "stage": self.stage,
                "draft": self.draft.config.to_dict(),
                **extra,
            },
        )

    def _copied(self, tensors: Iterable[tuple[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """Whole tensors, one by one, so that other ranks hold at most one whole tensor."""
        copies = {}
        for name, tensor in tensors:
            whole = self.masters.whole(tensor)
            if self.ranks.first:
                copies[name] = whole.to("cpu", copy=True)
        return copies

    def run(self, first_step: int, resume: ResumeFolder, save_interval: int, metrics: Path) -> int:
        """Train from `first_step` to the end of the stage; return the next global step.

        Raises UserError when a loss or gradient is not finite (the newest save stays usable), and
        when a rank was signalled to stop, after a save.
        """
        last_of_stage = self.steps[-1].number if self.steps else 0
        remaining = [step for step in self.steps if step.number >= first_step]
        step_packs = [(step.number, pack) for step in remaining for pack in self._local_packs(step)]
        pack_list = [pack for _, pack in step_packs]
        packs = read_ahead(self.data, pack_list, self.ranks.device, self.sharding)
        if self.train.feature_noise > 0:
            packs = with_noise(packs, step_packs, self.train.feature_noise, self.train.seed)
        progress = (
            Progress(len(remaining), "steps", log) if self.ranks.first and remaining else None
        )
        stopping = False
        with open(metrics, "ab", buffering=0) as out, resume.saving() as save:
            for step in remaining:
                record, stopping = self._step(step, packs)
                if self.trace:
                    self.trace()
                if not stopping:
                    record |= self._scores(step)
                append_record(out, record)
                last = step is remaining[-1]
                if self.track:
                    self.track(record)
                if progress:
                    line = partial(progress_line, record, self.total_steps, last_of_stage)
                    progress.advance(1, line)
                due = (step.number + 1) % save_interval == 0 and not last
                if due or stopping:
                    checkpoint = self.checkpoint(step.number + 1, {"inputs": resume.inputs})
                    if self.ranks.first:
                        os.fsync(out.fileno())  # a save is never ahead of its records
                        save(checkpoint)
                if stopping:
                    break
        if stopping:
            self._stop(step.number + 1)
        return self.steps[-1].number + 1 if self.steps else first_step

    def _scores(self, step: Step) -> dict[str, Any]:
        """Scores of the draft on held-out states, if they are due after this step."""
        interval = self.train.score_every_steps
        if self.scorer is None or interval is None or (step.number + 1) % interval:
            return {}
        self.masters.gather()
        figures = self.scorer(self.draft)
        self.masters.release()
        return figures

    def _stop(self, step: int) -> None:
        """Exit all ranks together, after the save: torchrun ends others soon after one exits."""
        self.ranks.barrier()
        if not self.ranks.first:
            sys.exit(1)  # one rank prints the reason
        raise UserError(
            f"stopped by {self.stop.name} at step {step}; the next call continues from there"
        )

    def _local_packs(self, step: Step) -> list[np.ndarray]:
        """Packs of a step for this rank and those that share them."""
        data = self.ranks.data
        return step.packs[data.index :: data.size]

    def _step(self, step: Step, packs: Iterator[Pack]) -> tuple[dict[str, Any], bool]:
        """One optimiser step over the packs of all ranks; and whether any of them must stop."""
        train, documents = self.train, self.data.documents
        rows = self.data.rows(step.packs)
        rate = learning_rate(step.number, self.total_steps, train)
        requested = self.stop.requested
        result = self.runner.run(packs, len(self._local_packs(step)), rows, rate, requested)
        lengths = np.concatenate([documents.lengths[pack] for pack in step.packs])
        record: dict[str, Any] = {"step": step.number, "epoch": step.epoch}
        record |= quality_figures(rows, result.totals, train.step_decay)
        record |= {
            "gradient_norm": result.gradient_norm,
            "clipped": result.gradient_norm > train.max_grad_norm,
            "learning_rate": rate,
        }
        record |= speed_figures(
            result,
            self.draft.config,
            tokens=int(lengths.sum()),
            aux_rows=int(np.maximum(lengths - 2, 0).sum()),
            supervised=rows,
            world=self.ranks.world,
            matrix_rate=self.matrix_rate,
            device=device_name(self.ranks.device),
        )
        if not (math.isfinite(record["loss"]) and math.isfinite(result.gradient_norm)):
            raise UserError(
                f"step {step.number}: loss is {record['loss']}, gradient norm "
                f"{result.gradient_norm}; lower train.learning_rate or check the states; the last "
                "save is usable"
            )
        return record, result.stopping


def objective_of(train: Train, recompute: bool = False) -> Objective:
    """The objective of a forward pass; `recompute` only changes how much of it is kept."""
    return Objective(
        steps=train.ttt_steps,
        decay=train.step_decay,
        loss=train.loss,
        lk_eta=train.lk_eta,
        dtype=getattr(torch, train.precision),
        attention=train.attention_backend,
        active_rows=train.active_rows,
        recompute=recompute,
    )


def _planned_steps(data: TrainingData, train: Train, stage_schedule: dict[str, Any]) -> list[Step]:
    """The steps of a stage, checked against the schedule."""
    packs_by_epoch = stage_packs(data.documents, train, stage_schedule["epochs"])
    if packs_digest(packs_by_epoch) != stage_schedule["packs_digest"]:
        raise UserError(
            f"stage {stage_schedule['stage']}: the token shards do not give the packs of the "
            "schedule; delete schedule.json and run snakemake again"
        )
    steps: list[Step] = []
    for epoch, packs in zip(stage_schedule["epochs"], packs_by_epoch, strict=True):
        for batch in batches(packs, train.packs_per_batch):
            steps.append(Step(stage_schedule["first_step"] + len(steps), epoch, batch))
    return steps[: stage_schedule["steps"]]  # `train.max_steps` may end inside the stage
