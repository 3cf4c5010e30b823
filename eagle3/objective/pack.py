"""What one forward pass works on: documents side by side, with their states."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from eagle3.objective.sequence_parallel.sharding import PackShards, SequenceSharding


@dataclass(frozen=True)
class Pack:
    """Tokens and stored states of some documents. N tokens, T rows of aux, R rows of last.

    Under sequence parallelism a rank has all tokens, and the states of its shard.
    """

    input_ids: torch.Tensor  # int64 [N]
    loss_mask: torch.Tensor  # bool [N]
    documents: torch.Tensor  # int64 [N], 0..D-1 ascending
    positions: torch.Tensor  # int64 [N], from 0 in each document
    aux: torch.Tensor  # [T, 3H]
    row_tokens: torch.Tensor  # int64 [T], token index of each row of aux
    last: torch.Tensor  # [R, H]
    last_tokens: torch.Tensor  # int64 [R], token index of each row of last
    teacher_argmax: torch.Tensor  # int64 [R]
    teacher_lse: torch.Tensor  # float32 [R]
    shards: PackShards | None = None  # of sequence parallelism

    def tensors(self) -> dict[str, torch.Tensor]:
        """All tensors but those of `shards`."""
        return {n: value for n, value in vars(self).items() if isinstance(value, torch.Tensor)}

    def sharded(self, sharding: SequenceSharding) -> Pack:
        """This rank's shard of a whole pack. (The loader never reads more than the shard.)"""
        shards = sharding.of(self.row_tokens, self.last_tokens)
        if shards is None:
            return self
        rows, taught = shards.local.rows, shards.local.taught
        return replace(
            self,
            aux=self.aux[rows],
            last=self.last[taught],
            teacher_argmax=self.teacher_argmax[taught],
            teacher_lse=self.teacher_lse[taught],
            shards=shards,
        )
