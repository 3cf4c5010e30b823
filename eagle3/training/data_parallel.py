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
    """The draft's float32 weights; the optimiser updates the part that this rank has."""

    def gather(self) -> None:
        """Make whole weights available until `sum_gradients` or `release`."""

    def release(self) -> None:
        """Free whole weights that were only read."""

    def sum_gradients(self) -> None:
        """Sum gradients over all ranks, including ranks without a row."""

    def whole(self, tensor: torch.Tensor) -> torch.Tensor:
        """A whole weight, or a whole tensor of its state; all ranks must call this together."""

    def placed(self, full: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """The inverse: this rank's part of a tensor, on the device of the weight `like`."""


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

    def placed(self, full: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        return full.to(like.device)


def masters_of(kind: str, draft: nn.Module, ranks: Ranks) -> MasterWeights:
    """Master weights of kind `ddp` or `fsdp2`; a single rank always replicates."""
    if kind == "fsdp2" and ranks.world > 1:
        from eagle3.training.fsdp import Sharded  # a second and a half of imports

        return Sharded(draft, ranks)
    return Replicated(draft, ranks)


def fill_gradients(draft: nn.Module) -> None:
    """Set missing gradients of trained parameters to zero."""
    for parameter in draft.parameters():
        if parameter.grad is None and parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)


def _buckets(tensors: Iterable[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """Tensors in order, in groups of at most `BUCKET` elements."""
    bucket: list[torch.Tensor] = []
    for tensor in tensors:
        if bucket and sum(member.numel() for member in bucket) + tensor.numel() > BUCKET:
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket
