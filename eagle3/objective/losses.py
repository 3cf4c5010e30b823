"""Losses between the draft's logits and the teacher's distribution, row by row."""

from __future__ import annotations

import torch


def soft_cross_entropy(logits: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """-sum_v p_v log q_v of logits [N, V_draft] under teacher [N, V_draft] -> [N]"""
    exact = logits if logits.dtype == torch.float64 else logits.float()
    return -(teacher * exact.log_softmax(-1)).sum(-1)


def step_weights(steps: int, decay: float) -> list[float]:
    """decay^k for k = 0..steps-1, normalised to sum to one."""
    raw = [decay**k for k in range(steps)]
    return [weight / sum(raw) for weight in raw]
