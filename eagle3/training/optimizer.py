"""AdamW over float32 master weights, and the learning rate as a function of the step."""

from __future__ import annotations

import math

import torch
from torch import nn

BETAS = (0.9, 0.95)


def build_optimizer(draft: nn.Module, weight_decay: float) -> torch.optim.AdamW:
    """AdamW; norms take no weight decay."""
    named = list(draft.named_parameters())
    return torch.optim.AdamW(
        [
            {"params": [p for _, p in named if p.dim() > 1], "weight_decay": weight_decay},
            {"params": [p for _, p in named if p.dim() <= 1], "weight_decay": 0.0},
        ],
        lr=0.0,
        betas=BETAS,
        foreach=True,
    )


def learning_rate(step: int, total: int, peak: float, warmup_ratio: float, schedule: str) -> float:
    """Rate of step `step` (from 0) of `total`: linear warm-up, then the schedule down to 0."""
    warmup = math.ceil(warmup_ratio * total)
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(total - warmup, 1)
    match schedule:
        case "cosine":
            return peak * 0.5 * (1 + math.cos(math.pi * done))
        case "linear":
            return peak * (1 - done)
    return peak


def optimizer_tensors(
    draft: nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, torch.Tensor]:
    """The optimiser's state keyed by parameter name: it does not depend on ranks or order."""
    found = {}
    for name, parameter in draft.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            found[f"{key}.{name}"] = value
    return found


def restore_optimizer(
    draft: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]
) -> None:
    """The inverse of `optimizer_tensors`."""
    for name, parameter in draft.named_parameters():
        optimizer.state[parameter] = {
            key: tensors[f"{key}.{name}"].to(
                parameter.device if key != "step" else torch.device("cpu")
            )
            for key in ("step", "exp_avg", "exp_avg_sq")
        }
