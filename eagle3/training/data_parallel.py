"""Where master weights, their gradients and the optimiser's state live.

    Replicated   every rank has all of them; gradients are summed over ranks once per step
    Sharded      every rank has its part (`fsdp`)

Both sum, never average: the loss is divided by n_0 of the whole batch. Masters, gradients and sums
are float32 under any `train.precision`; products round the gathered weights themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

import torch
from torch import nn

from eagle3.parallel.ranks import Ranks

BUCKET = 2**25  # elements that are summed in one call


class MasterWeights(Protocol):
    """The draft's weights in float32, of which the optimiser updates what this rank has."""

    def gather(self) -> None:
        """Have whole weights at hand until the gradients are summed, or `release`."""

    def release(self) -> None:
        """Whole weights are not needed any more: they were only looked at."""

    def sum_gradients(self) -> None:
        """Every parameter gets its gradient over all ranks; those without a row take part."""

    def whole(self, tensor: torch.Tensor) -> torch.Tensor:
        """A weight, or a tensor of its state, in one piece; all ranks must ask together."""

    def placed(self, whole: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """The inverse: what this rank keeps of it, on the device of the weight `like`."""


class Replicated:
    """All weights on every rank (`data_parallel: ddp`). See `MasterWeights`."""

    def __init__(self, draft: nn.Module, ranks: Ranks) -> None:
        self.draft, self.ranks = draft, ranks

    def gather(self) -> None: ...

    def release(self) -> None: ...

    def sum_gradients(self) -> None:
        fill_gradients(self.draft)
        if self.ranks.world == 1:
            return
        for bucket in _buckets(p.grad for p in self.draft.parameters() if p.grad is not None):
            flat = self.ranks.sum(torch.cat([gradient.flatten() for gradient in bucket]))
            parts = flat.split([gradient.numel() for gradient in bucket])
            for gradient, part in zip(bucket, parts, strict=True):
                gradient.copy_(part.view_as(gradient))

    def whole(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.detach()

    def placed(self, whole: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        return whole.to(like.device)


def masters_of(kind: str, draft: nn.Module, ranks: Ranks) -> MasterWeights:
    """`ddp` or `fsdp2`; one rank has nothing to share."""
    if kind == "fsdp2" and ranks.world > 1:
        from eagle3.training.fsdp import Sharded  # a second and a half of imports

        return Sharded(draft, ranks)
    return Replicated(draft, ranks)


def fill_gradients(draft: nn.Module) -> None:
    """Zero gradients where no row left one; frozen weights have none."""
    for parameter in draft.parameters():
        if parameter.grad is None and parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)


def _buckets(tensors: Iterable[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """Tensors in order, as many at once as `BUCKET` allows."""
    bucket: list[torch.Tensor] = []
    for tensor in tensors:
        if bucket and sum(member.numel() for member in bucket) + tensor.numel() > BUCKET:
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket
