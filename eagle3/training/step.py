"""One optimiser step: packs forward and backward, gradients over ranks, clip, update.

The loss is divided by n_0 of the whole batch before the backward pass, so gradients are summed
over packs and ranks, never averaged: any number of packs and ranks gives the gradient of one big
pack. A loss weighted by the batch's acceptance needs a forward pass over the whole batch first.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from eagle3.draft.model import Eagle3Draft
from eagle3.objective.pack import Pack
from eagle3.objective.step_totals import StepTotals
from eagle3.objective.ttt import Objective, TargetParts, ttt_loss
from eagle3.parallel.ranks import Ranks
from eagle3.training.data_parallel import MasterWeights
from eagle3.training.optimizer import set_rate
from eagle3.training.speed import Stopwatch


@dataclass(frozen=True)
class StepResult:
    """The result of a step, over all ranks."""

    totals: StepTotals
    gradient_norm: float  # before clipping
    seconds: dict[str, float]  # of this rank, by phase
    stopping: bool  # some rank was asked to stop


class StepRunner:
    """Takes optimiser steps on this rank, together with the others."""

    def __init__(
        self,
        draft: Eagle3Draft,
        target: TargetParts,
        masters: MasterWeights,
        optimizers: Sequence[torch.optim.Optimizer],
        objective: Objective,
        max_grad_norm: float,
        ranks: Ranks,
    ) -> None:
        self.draft, self.target, self.masters, self.optimizers = draft, target, masters, optimizers
        self.objective, self.max_grad_norm, self.ranks = objective, max_grad_norm, ranks

    def run(
        self, packs: Iterator[Pack], count: int, rows: int, rate: float, stop: bool
    ) -> StepResult:
        """Train on the next `count` packs of this rank. `rows`: n_0 of the batch; `stop`: whether
        this rank must stop after it."""
        watch = Stopwatch(self.ranks.device)
        self.masters.gather()
        acceptance = None
        packs = itertools.islice(packs, count)
        if self.objective.needs_acceptance:
            pack_list = list(packs)
            watch.end("fetch")
            acceptance = self._acceptance(pack_list)
            watch.end("forward")
            packs = iter(pack_list)
        totals = StepTotals.zeros(self.objective.steps, self.ranks.device)
        for pack in packs:
            watch.end("fetch")
            loss, pack_totals = ttt_loss(self.draft, pack, self.target, self.objective, acceptance)
            totals.add(pack_totals)
            watch.end("forward")
            if loss.requires_grad:
                (loss / rows).backward()
            watch.end("backward")
        totals, norm, stopping = self._update(totals, stop, rate)
        watch.end("optimizer")
        return StepResult(totals, norm, watch.seconds(), stopping)

    @torch.no_grad()
    def _acceptance(self, packs: list[Pack]) -> torch.Tensor:
        """[K] mean acceptance of the batch at each step, over all packs and ranks."""
        totals = StepTotals.zeros(self.objective.steps, self.ranks.device)
        for pack in packs:
            totals.add(ttt_loss(self.draft, pack, self.target, self.objective)[1])
        return StepTotals.unstacked(self.ranks.sum(totals.stacked())).mean_acceptance()

    def _update(
        self, totals: StepTotals, stop: bool, rate: float
    ) -> tuple[StepTotals, float, bool]:
        """Sum gradients over ranks, clip by the global norm, and update. Returns totals of all
        ranks, the norm, and whether any rank must stop, by the only copy that waits for a GPU."""
        stacked = totals.stacked()
        # all ranks in one sum
        summed = self.ranks.sum(torch.cat([stacked.flatten(), stacked.new_full((1,), stop)]))
        self.masters.sum_gradients()
        parameters = list(self.draft.parameters())
        clipped = self.masters.whole(torch.nn.utils.clip_grad_norm_(parameters, self.max_grad_norm))
        host = torch.cat([summed, clipped.to(summed).view(1)]).cpu()
        norm = float(host[-1])
        if math.isfinite(norm):
            set_rate(self.optimizers, rate)
            for optimizer in self.optimizers:
                optimizer.step()
        self.draft.zero_grad(set_to_none=True)
        return StepTotals.unstacked(host[:-2].view_as(stacked)), norm, bool(host[-2])
