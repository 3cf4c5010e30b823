"""The input of a forward pass: concatenated documents with their states."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from eagle3.objective.sequence_parallel.sharding import PackShards


@dataclass(frozen=True)
class HostColumns:
    """The columns of a pack that determine which rows are computed, on the host."""

    input_ids: torch.Tensor  # as in `Pack`
    loss_mask: torch.Tensor
    documents: torch.Tensor
    positions: torch.Tensor
    row_tokens: torch.Tensor
    teacher_argmax: torch.Tensor


@dataclass(frozen=True)
class Pack:
    """Tokens and stored states of some documents. N tokens, T rows of aux, R rows of last.

    Under sequence parallelism a rank has all tokens, and the states of its shard.
    """

    input_ids: torch.Tensor  # int64 [N]
    loss_mask: torch.Tensor  # bool [N]
    documents: torch.Tensor  # int64 [N], 0..D-1 ascending
    positions: torch.Tensor  # int64 [N], from 0 in each document
    aux: torch.Tensor  # [T, C H], of C layers of the target
    row_tokens: torch.Tensor  # int64 [T], token index of each row of aux
    last: torch.Tensor  # [R, H]
    last_tokens: torch.Tensor  # int64 [R], token index of each row of last
    teacher_argmax: torch.Tensor  # int64 [R]
    teacher_lse: torch.Tensor  # float32 [R]
    shards: PackShards | None = None  # of sequence parallelism
    host: HostColumns | None = None  # from the loader, if the pack is on a GPU

    @cached_property
    def columns(self) -> HostColumns:
        """The small tensors on the host; a GPU is waited for if the loader kept none."""
        if self.host is not None:
            return self.host
        names = HostColumns.__dataclass_fields__
        return HostColumns(**{name: getattr(self, name).cpu() for name in names})

    def tensors(self) -> dict[str, torch.Tensor]:
        """All tensors but those of `shards`."""
        return {n: value for n, value in vars(self).items() if isinstance(value, torch.Tensor)}
