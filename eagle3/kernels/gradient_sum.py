"""The gradient of a tensor that many operations use, summed in place.

Autograd would keep a gradient of each use, as large as the whole tensor, and add them up in extra
passes: a tenth of a training step on a GPU, as modelled in docs/performance.md. Here each use adds
to one sum.

    weight --- node --+-- product of step 0      gradient.add...
                      +-- product of step 1      gradient.add...
"""

from __future__ import annotations

from typing import Any

import torch


class GradientSum:
    """The sum during a backward pass.

    Autograd's graph refers to it, so it must not refer to the graph: a cycle would not be freed.
    """

    def __init__(self, like: torch.Tensor) -> None:
        self.shape, self.dtype, self.device = like.shape, like.dtype, like.device
        self.total: torch.Tensor | None = None

    def so_far(self) -> torch.Tensor:
        """The sum so far, to be added to in place."""
        if self.total is None:
            self.total = torch.zeros(self.shape, dtype=self.dtype, device=self.device)
        return self.total

    def pop(self) -> torch.Tensor | None:
        """Return the sum and start a new one; None if nothing was added."""
        total, self.total = self.total, None
        return total


class _Shared(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, gradient: GradientSum) -> torch.Tensor:
        ctx.gradient = gradient
        ctx.set_materialize_grads(False)
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        (others,), total = grads, ctx.gradient.pop()  # others: of uses that return a gradient
        if total is None or others is None:
            return others if total is None else total, None
        return total.add_(others), None


def shared(tensor: torch.Tensor) -> tuple[torch.Tensor, GradientSum]:
    """The same tensor for autograd's graph, and the sum that its uses add their gradients to. A use
    takes both, and returns no gradient of the tensor itself.

    Uses add to the sum in every backward pass, so each must request the tensor's gradient too, and
    second-order gradients are wrong.
    """
    gradient = GradientSum(tensor)
    return _Shared.apply(tensor, gradient), gradient
