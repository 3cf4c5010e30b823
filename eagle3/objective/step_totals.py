"""Sums over rows by step of the training-time test."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch

from eagle3.objective.flops import Work
from eagle3.objective.head_loss import PairResults, Pairs
from eagle3.objective.host_tensors import tree_to_device


@dataclass
class StepTotals:
    """Sums per TTT step, all float64 [K]; they add up over packs and ranks."""

    loss: torch.Tensor  # sum of l(t, k) over trained rows
    correct: torch.Tensor  # draft argmax equals the target's, of those that serving can reach
    accepted: torch.Tensor  # sum of min(p, q) over the same: acceptance when sampling
    trained: torch.Tensor  # rows with a loss
    reached: torch.Tensor  # those of them that serving can reach: all, unless trained by the mask
    active: torch.Tensor  # |A_k|
    in_mask: torch.Tensor  # rows the mask allows: the denominator of metrics
    attended: torch.Tensor  # keys of step 0 that rows see, in all layers

    @classmethod
    def zeros(cls, steps: int, device: torch.device | str = "cpu") -> StepTotals:
        return cls(*(torch.zeros(steps, dtype=torch.float64, device=device) for _ in fields(cls)))

    def work(self, rows: int) -> Work:
        """The arithmetic behind these sums; `rows` of aux."""
        trained = self.trained.tolist()
        attended = int(self.attended.sum())
        return Work(rows, self.active.tolist(), int(sum(trained)), int(trained[0]), attended)

    def stacked(self) -> torch.Tensor:
        """[8, K], to be reduced over ranks in one call."""
        return torch.stack([getattr(self, f.name) for f in fields(self)])

    @classmethod
    def unstacked(cls, stacked: torch.Tensor) -> StepTotals:
        return cls(*stacked.unbind())

    def add(self, other: StepTotals) -> None:
        for f in fields(self):
            getattr(self, f.name).add_(getattr(other, f.name))

    def add_pairs(self, pairs: Pairs, results: PairResults, reachable: torch.Tensor) -> None:
        """Add the results of N pairs; `reachable` bool [N]: serving can get there."""
        sums = {
            "loss": results.loss,
            "correct": results.correct * reachable,
            "accepted": results.accepted * reachable,
            "reached": reachable,
        }
        for name, values in sums.items():
            getattr(self, name).index_add_(0, pairs.step, values.double())
        counts = torch.bincount((pairs.host or pairs).step, minlength=len(self.trained))
        self.trained += (
            counts if pairs.host is None else tree_to_device(counts, self.trained.device)
        )

    def mean_acceptance(self) -> torch.Tensor:
        """[K], of rows with a loss that serving can reach"""
        return self.accepted / self.reached.clamp_min(1)
