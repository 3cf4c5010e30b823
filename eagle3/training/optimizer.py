"""Optimisers over float32 master weights, and the learning rate as a function of the step.

adamw   AdamW for all trained weights
muon    Muon for the inner matrices (fc, q, k, v, o, gate, up, down), whose update is made
        orthogonal and scaled like AdamW's, at a higher rate; AdamW for the head, whose rows are
        tokens, and for norms
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import nn

from eagle3.config.train import Train
from eagle3.draft.shapes import HEAD
from eagle3.parallel.ranks import Ranks
from eagle3.training.data_parallel import MasterWeights
from eagle3.training.muon import DealtMuon

BETAS = (0.9, 0.95)
STATE: dict[type[torch.optim.Optimizer], tuple[str, ...]] = {
    torch.optim.AdamW: ("step", "exp_avg", "exp_avg_sq"),
    DealtMuon: ("momentum_buffer",),
}


def build_optimizers(
    draft: nn.Module,
    kind: str,
    weight_decay: float,
    ranks: Ranks,
    muon_ratio: float = 1.0,
    dtype: torch.dtype = torch.bfloat16,
) -> list[torch.optim.Optimizer]:
    """The optimisers of `kind` for all trained weights; norms have no weight decay. `ranks` share
    Muon's work; `muon_ratio`: Muon's rate over AdamW's; `dtype`: of Muon's products."""
    trained = [(name, p) for name, p in draft.named_parameters() if p.requires_grad]
    matrices = [(name, p) for name, p in trained if p.dim() > 1]
    uses_adamw = [kind == "adamw" or name == HEAD for name, _ in matrices]
    adamw_matrices = [p for (_, p), is_adamw in zip(matrices, uses_adamw, strict=True) if is_adamw]
    muon_matrices = [
        p for (_, p), is_adamw in zip(matrices, uses_adamw, strict=True) if not is_adamw
    ]
    adamw = torch.optim.AdamW(
        [
            {"params": adamw_matrices, "weight_decay": weight_decay},
            {"params": [p for _, p in trained if p.dim() <= 1], "weight_decay": 0.0},
        ],
        lr=0.0,
        betas=BETAS,
        fused=True,  # one pass over each weight and its state
    )
    if not muon_matrices:
        return [adamw]
    muon = DealtMuon(
        muon_matrices,
        ranks,
        muon_ratio,
        dtype,
        lr=0.0,
        weight_decay=weight_decay,
    )
    return [adamw, muon]


def set_rate(optimizers: Sequence[torch.optim.Optimizer], rate: float) -> None:
    """Set the rate of every group for a step; Muon's is a multiple of it."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate * group.get("rate_ratio", 1.0)


def muon_ratio(train: Train) -> float:
    """Muon's rate over AdamW's. Ten by default, as in speculators 0.9."""
    if train.muon_learning_rate is None:
        return 10.0
    return train.muon_learning_rate / train.learning_rate


def learning_rate(step: int, total: int, train: Train) -> float:
    """Rate of step `step` (from 0) of `total`: linear warm-up, then the schedule.

    `cosine` and `linear` fall to 0, `constant` stays, `wsd` (warm-up, stable, decay) stays and
    falls linearly over the last steps.
    """
    peak = train.learning_rate
    warmup = math.ceil(train.warmup_ratio * total)
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(total - warmup, 1)
    match train.lr_schedule:
        case "cosine":
            return peak * 0.5 * (1 + math.cos(math.pi * progress))
        case "linear":
            return peak * (1 - progress)
        case "wsd":
            decay_steps = max(math.ceil(train.lr_decay_ratio * total), 1)
            return peak * min(1.0, (total - step) / (decay_steps + 1))
    return peak


def optimizer_tensors(
    draft: nn.Module, optimizers: Sequence[torch.optim.Optimizer]
) -> Iterator[tuple[str, torch.Tensor]]:
    """The optimisers' state keyed by parameter name, independent of ranks and order. All ranks must
    iterate over it together."""
    for name, parameter in draft.named_parameters():
        for optimizer in optimizers:
            if isinstance(optimizer, DealtMuon) and parameter in optimizer.owners:
                state = optimizer.whole_state(parameter)
            else:
                state = optimizer.state.get(parameter, {})
            for key, value in state.items():
                yield f"{key}.{name}", value


def restore_optimizer(
    draft: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    tensors: dict[str, torch.Tensor],
    masters: MasterWeights,
) -> None:
    """The inverse of `optimizer_tensors`, from whole tensors."""
    names = {parameter: name for name, parameter in draft.named_parameters()}
    for optimizer in optimizers:
        for parameter in (p for group in optimizer.param_groups for p in group["params"]):
            if isinstance(optimizer, DealtMuon) and not optimizer.keeps(parameter):
                continue
            optimizer.state[parameter] = {
                key: masters.placed(tensors[f"{key}.{names[parameter]}"], parameter)
                for key in STATE[type(optimizer)]
            }
