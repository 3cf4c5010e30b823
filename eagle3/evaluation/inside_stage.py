"""Scores of the draft in training, on held-out states inside a stage.

Each rank takes its share of the packs, always whole packs, even if ranks share those of training:
without gradients a pack needs little memory. No random number is drawn and nothing is changed, so
the trained weights do not depend on the scores.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eagle3.config.train import Train
from eagle3.draft.model import Eagle3Draft
from eagle3.evaluation.held_out import check_scorable, runs_of
from eagle3.objective.step_totals import StepTotals
from eagle3.objective.ttt import Objective, TargetParts, ttt_loss
from eagle3.parallel.ranks import Ranks
from eagle3.run import Run
from eagle3.target_model.config import load_config, stop_ids
from eagle3.tokens.packing import pack_documents
from eagle3.training.data import TrainingData, held_out_data
from eagle3.training.loader import read_ahead
from eagle3.training.record import quality_figures
from eagle3.training.stage import StageTrainer, objective_of


class HeldOutScorer:
    """Loss and simulated acceptance of a draft on held-out states, over all ranks."""

    def __init__(
        self,
        data: TrainingData,
        target: TargetParts,
        train: Train,
        dtype: torch.dtype,
        depth: int,
        stop: set[int],
        ranks: Ranks,
    ) -> None:
        """`data`: held-out states; `dtype`: of the products of the simulated chains, `depth`: their
        drafts; `stop`: tokens at which the target stops. Raises UserError if no document has a row.
        """
        self.data, self.target, self.train, self.ranks = data, target, train, ranks
        self.loss, self.chains = objective_of(train), Objective(steps=depth, dtype=dtype)
        self.stop = stop
        packs = pack_documents(data.documents.lengths, train.pack_tokens, seed=0, epoch=0)
        check_scorable(len(packs))
        self.rows, self.share = data.rows(packs), packs[ranks.rank :: ranks.world]

    @classmethod
    def of(cls, run: Run, directory: Path, trainer: StageTrainer) -> HeldOutScorer:
        """A scorer of the trainer's draft, with the settings of `score_stage`. `directory`: of the
        target."""
        evaluation = run.config.evaluation
        config = load_config(directory, run.config.target.trust_remote_code)
        return cls(
            held_out_data(run),
            trainer.target,
            trainer.train,
            getattr(torch, evaluation.dtype),
            evaluation.num_speculative_tokens,
            set(stop_ids(directory, config)),
            trainer.ranks,
        )

    @torch.no_grad()
    def __call__(self, draft: Eagle3Draft) -> dict[str, Any]:
        """Figures for the record of a step. All ranks call this together."""
        started, acceptance = time.perf_counter(), None
        if self.loss.needs_acceptance:
            acceptance = self._sums(draft)[0].mean_acceptance().to(self.ranks.device)
        totals, chains = self._sums(draft, acceptance)
        figures = quality_figures(self.rows, totals, self.train.step_decay)
        accepted, counted = chains.numpy()
        share = accepted / np.maximum(counted, 1)
        return {
            "held_out_loss": figures["loss"],
            "held_out_accuracy_at": figures["accuracy_at"],
            "held_out_acceptance_length": float(1 + share.sum()),
            "held_out_acceptance_at": share.tolist(),
            "held_out_seconds": time.perf_counter() - started,
        }

    def _sums(
        self, draft: Eagle3Draft, acceptance: torch.Tensor | None = None
    ) -> tuple[StepTotals, torch.Tensor]:
        """Totals of the loss, and float64 [2, depth]: rows whose first k + 1 drafts are accepted,
        and rows that count. On the host."""
        device = self.ranks.device
        totals = StepTotals.zeros(self.loss.steps, device)
        chains = torch.zeros(2, self.chains.steps, dtype=torch.float64)
        for pack in read_ahead(self.data, self.share, device):
            totals.add(ttt_loss(draft, pack, self.target, self.loss, acceptance)[1])
            for runs in runs_of(draft, self.target, pack, self.chains, self.stop):
                for run in runs:
                    chains += torch.from_numpy(np.stack(run.counts()))
        stacked = totals.stacked()
        parts = torch.cat([stacked.flatten(), chains.flatten().to(device)])
        summed = self.ranks.sum(parts).cpu()
        losses = summed[: stacked.numel()].view_as(stacked)
        return StepTotals.unstacked(losses), summed[stacked.numel() :].view(2, -1)
