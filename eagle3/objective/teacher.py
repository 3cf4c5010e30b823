"""The teacher: the target's next-token distribution on the draft vocabulary.

Computed once per pack from the stored post-norm states, for supervised rows and draft-vocabulary
rows of the head only. What needs the full vocabulary (argmax, log-sum-exp) was stored by capture.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from eagle3.objective.pack import Pack
from eagle3.target.reader import Head


@dataclass(frozen=True)
class Teacher:
    """Distributions of the R rows of a pack."""

    probabilities: torch.Tensor  # [R, V_draft], renormalised on the draft vocabulary
    on_draft: torch.Tensor  # [R], the target's own mass on the draft vocabulary
    argmax: torch.Tensor  # int64 [R], draft id of the target's argmax, -1 outside


@torch.no_grad()
def build_teacher(pack: Pack, head: Head, draft_ids: torch.Tensor) -> Teacher:
    """`head`: the target's head on the draft vocabulary; `draft_ids` int64 [V]."""
    with torch.autocast(pack.last.device.type, enabled=False):
        logits = head.logits(pack.last.to(head.weight.dtype))  # [R, V_draft]
    logits = logits if logits.dtype == torch.float64 else logits.float()
    lse = logits.logsumexp(-1)
    return Teacher(
        probabilities=(logits - lse[:, None]).exp(),
        # at most one but for rounding: both are of the state as stored
        on_draft=(lse - pack.teacher_lse).exp().clamp(max=1.0),
        argmax=draft_ids[pack.teacher_argmax],
    )
