"""AdamW over float32 master weights, and the learning rate as a function of the step."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from eagle3.training.masters import Replicated

BETAS = (0.9, 0.95)


@dataclass(frozen=True)
class RateSettings:
    """How the learning rate moves."""

    peak: float  # of one global batch, however many ranks and packs it has
    schedule: str
    warmup_ratio: float  # share of all steps, rising linearly
    decay_ratio: float  # of `wsd`: share of all steps at the end, falling linearly


def build_optimizer(draft: nn.Module, weight_decay: float) -> torch.optim.AdamW:
    """AdamW over float32 master weights; norms take no weight decay."""
    named = list(draft.named_parameters())
    return torch.optim.AdamW(
        [
            {"params": [p for _, p in named if p.dim() > 1], "weight_decay": weight_decay},
            {"params": [p for _, p in named if p.dim() <= 1], "weight_decay": 0.0},
        ],
        lr=0.0,
        betas=BETAS,
        fused=True,  # one pass over each weight and its state
    )


def learning_rate(step: int, total: int, settings: RateSettings) -> float:
    """Rate of step `step` (from 0) of `total`: linear warm-up, then the schedule.

    `cosine` and `linear` fall to 0, `constant` stays, `wsd` (warm-up, stable, decay) stays and
    falls linearly over the last steps.
    """
    peak = settings.peak
    warmup = math.ceil(settings.warmup_ratio * total)
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(total - warmup, 1)
    match settings.schedule:
        case "cosine":
            return peak * 0.5 * (1 + math.cos(math.pi * done))
        case "linear":
            return peak * (1 - done)
        case "wsd":
            falling = max(math.ceil(settings.decay_ratio * total), 1)
            return peak * min(1.0, (total - step) / (falling + 1))
    return peak


def optimizer_tensors(
    draft: nn.Module, optimizer: torch.optim.Optimizer
) -> Iterator[tuple[str, torch.Tensor]]:
    """The optimiser's state keyed by parameter name: it does not depend on ranks or order."""
    for name, parameter in draft.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            yield f"{key}.{name}", value


def restore_optimizer(
    draft: nn.Module,
    optimizer: torch.optim.Optimizer,
    tensors: dict[str, torch.Tensor],
    masters: Replicated,
) -> None:
    """The inverse of `optimizer_tensors`, of whole tensors."""
    for name, parameter in draft.named_parameters():
        optimizer.state[parameter] = {
            key: masters.placed(tensors[f"{key}.{name}"], parameter)
            for key in ("step", "exp_avg", "exp_avg_sq")
        }
