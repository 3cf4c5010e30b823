"""Muon over several ranks: each updates some of the matrices and sends them to the others.

An update takes Newton-Schulz iterations over the whole matrix, which every rank would repeat
otherwise: for the draft of an 8B target, as much arithmetic as a pack of 4,000 tokens. Only the
rank that updates a matrix has its momentum. Weights are bit-identical to those of a single rank
with the same gradients (distributed as in Muon's first implementation,
https://kellerjordan.github.io/posts/muon).

torch multiplies in bfloat16, whatever the type of the weights. A processor without such products
takes several times as long as in float32, so products here have the type of training's products.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from eagle3.objective.flops import orthogonalising_flops
from eagle3.parallel.ranks import Ranks


class DealtMuon(torch.optim.Muon):
    """`torch.optim.Muon` of matrices that all ranks have, with whole gradients on each."""

    def __init__(
        self,
        matrices: Sequence[torch.nn.Parameter],
        ranks: Ranks,
        ratio: float,
        dtype: torch.dtype,
        **options: Any,
    ) -> None:
        """`ratio`: see `set_rate`; `dtype`: of the iterations' products, which torch always makes
        in bfloat16; `options`: of `torch.optim.Muon`."""
        super().__init__(
            [{"params": [*matrices], "rate_ratio": ratio}],
            adjust_lr_fn="match_rms_adamw",
            **options,
        )
        self.ranks, self.dtype = ranks, dtype
        owners = dealt([(matrix.shape[0], matrix.shape[1]) for matrix in matrices], ranks.world)
        self.owners: dict[torch.Tensor, int] = dict(zip(matrices, owners, strict=True))

    def keeps(self, matrix: torch.Tensor) -> bool:
        """Whether this rank updates the matrix and has its momentum."""
        return self.owners[matrix] == self.ranks.rank

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update the matrices of this rank, and receive the others from their ranks."""
        for matrix in self.owners:
            if not self.keeps(matrix):
                matrix.grad = None  # one without a gradient is passed over
        (group,) = self.param_groups
        for matrix in group["params"]:
            if matrix.grad is not None:
                self._update(matrix, matrix.grad, group)
        for matrix, owner in self.owners.items():
            self.ranks.broadcast(matrix.detach(), owner)

    def _update(self, matrix: torch.Tensor, gradient: torch.Tensor, group: dict[str, Any]) -> None:
        """The update of `torch.optim.Muon`, bit-identical in bfloat16."""
        state, momentum = self.state[matrix], group["momentum"]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        mean = state["momentum_buffer"].lerp_(gradient, 1 - momentum)
        update = orthogonalised(gradient.lerp(mean, momentum), group, self.dtype)
        matrix.mul_(1 - group["lr"] * group["weight_decay"])
        matrix.add_(update, alpha=-group["lr"] * 0.2 * math.sqrt(max(matrix.shape)))

    def whole_state(self, matrix: torch.Tensor) -> dict[str, torch.Tensor]:
        """State of a matrix, on every rank; all must call this together. Valid before any step."""
        momentum = self.state[matrix].get("momentum_buffer") if self.keeps(matrix) else None
        momentum = torch.zeros_like(matrix) if momentum is None else momentum
        return {"momentum_buffer": self.ranks.broadcast(momentum, self.owners[matrix])}


def orthogonalised(update: torch.Tensor, group: dict[str, Any], dtype: torch.dtype) -> torch.Tensor:
    """About U V^T of an update U S V^T, by Newton-Schulz iterations with products of `dtype`
    (https://kellerjordan.github.io/posts/muon). `group`: of `torch.optim.Muon`."""
    a, b, c = group["ns_coefficients"]
    tall = update.shape[0] > update.shape[1]
    x = (update.T if tall else update).to(dtype)
    x = x / x.norm().clamp(min=group["eps"])
    for _ in range(group["ns_steps"]):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


def dealt(shapes: Sequence[tuple[int, int]], ranks: int) -> list[int]:
    """A rank for each matrix: the most expensive first, each to the rank with least work."""
    work, owners = [0.0] * ranks, [0] * len(shapes)
    cost = [orthogonalising_flops(*shape) for shape in shapes]
    for number in sorted(range(len(shapes)), key=lambda n: -cost[n]):
        owners[number] = work.index(min(work))
        work[owners[number]] += cost[number]
    return owners
