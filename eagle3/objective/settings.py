"""Inputs of the objective: settings of the loss, and the parts of the target that it needs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from eagle3.objective.head_loss import LossKind
from eagle3.objective.host_tensors import tree_to_device
from eagle3.objective.losses import step_weights
from eagle3.objective.pack import Pack
from eagle3.objective.teacher import Teacher
from eagle3.target_model.reader import Head


@dataclass(frozen=True)
class TargetParts:
    """The frozen parts of the target that training uses."""

    embedding: torch.Tensor  # [V, H]
    head: Head  # on the draft vocabulary, [V_draft, H]
    draft_ids: torch.Tensor  # int64 [V], -1 outside the draft vocabulary

    @cached_property
    def host_draft_ids(self) -> torch.Tensor:
        """`draft_ids` on the host."""
        return self.draft_ids.cpu()

    def teacher(self, pack: Pack) -> Teacher:
        """The teacher of the rows of a pack."""
        answers = self.draft_ids[pack.teacher_argmax]
        return Teacher(pack.last, pack.teacher_lse, answers, self.head)


@dataclass(frozen=True)
class Objective:
    """How the loss is computed."""

    steps: int = 7
    decay: float = 0.8
    loss: str = "soft_ce"
    lk_eta: float = 3.0  # of lk_hybrid
    dtype: torch.dtype = torch.float32  # of products and stored activations
    attention: str = "auto"
    active_rows: str = "reachable"  # or `supervised`: tokens outside the draft vocabulary too
    recompute: bool = False  # keep the input of each step only; forward again in the backward pass

    @property
    def needs_acceptance(self) -> bool:
        """Whether the loss is weighted by acceptance over the whole batch."""
        return self.loss == "lk_hybrid"

    def loss_kind(self, acceptance: torch.Tensor | None, device: torch.device) -> LossKind:
        """The loss with its weights; `acceptance` [K]: the mean of each step, for lk_hybrid."""
        weights = torch.tensor(step_weights(self.steps, self.decay), dtype=torch.float64)
        weights = tree_to_device(weights, device)
        mix = torch.ones_like(weights)
        if acceptance is not None:
            mix = torch.exp(-self.lk_eta * acceptance)
        return LossKind(self.loss, weights, mix)
