"""Differentiable exchanges of rows between ranks.

Every rank knows how many rows each of them sends, so no sizes are exchanged. All ranks of a group
must call these in the same order, even without a row; then their backward passes match as well. The
ring is implemented here because PyTorch has none for unequal numbers of rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist

from eagle3.kernels import torch_internals
from eagle3.parallel.ranks import Group


def all_to_all(
    rows: torch.Tensor, sent: Sequence[int], received: Sequence[int], group: Group
) -> torch.Tensor:
    """rows [sum(sent), ...], those for rank 0 of the group first -> [sum(received), ...]"""
    if group.handle is None:  # a rank alone
        return rows
    return torch_internals.all_to_all(rows, sent, received, group.handle)


def all_gather(rows: torch.Tensor, counts: Sequence[int], group: Group) -> torch.Tensor:
    """The rows of every rank, in the order of ranks; `counts`: how many each one has.

    PyTorch's differentiable gathers need equal counts, so copies are sent all to all."""
    copies = rows.expand(group.size, *rows.shape).flatten(0, 1)
    return all_to_all(copies, [len(rows)] * group.size, counts, group)


class _RingGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, counts: list[int], group: Group) -> torch.Tensor:
        ctx.counts, ctx.group = counts, group
        blocks = [rows.new_empty(count, *rows.shape[1:]) for count in counts]
        blocks[group.index] = rows.contiguous()
        for hop in range(group.size - 1):
            sent, received = ((group.index - hop - shift) % group.size for shift in (0, 1))
            _send_to_next(blocks[sent], blocks[received], group)
        return torch.cat(blocks)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        group, blocks = ctx.group, [block.contiguous() for block in grads[0].split(ctx.counts)]
        # each block moves on to its owner, and every rank adds its part
        for hop in range(group.size - 1):
            sent, received = ((group.index - 1 - hop - shift) % group.size for shift in (0, 1))
            part = torch.empty_like(blocks[received])
            _send_to_next(blocks[sent], part, group)
            blocks[received] = blocks[received] + part
        return blocks[group.index], None, None


def _send_to_next(sent: torch.Tensor, received: torch.Tensor, group: Group) -> None:
    """Send to the next rank of the ring, and receive as much from the one before."""
    next_rank, previous_rank = ((group.index + direction) % group.size for direction in (1, -1))
    calls = []
    if len(sent):
        calls.append(dist.P2POp(dist.isend, sent, group=group.handle, group_peer=next_rank))
    if len(received):
        calls.append(dist.P2POp(dist.irecv, received, group=group.handle, group_peer=previous_rank))
    for call in dist.batch_isend_irecv(calls) if calls else []:
        call.wait()


def ring_gather(rows: torch.Tensor, counts: Sequence[int], group: Group) -> torch.Tensor:
    """As `all_gather`, block by block from neighbour to neighbour: each link of the ring carries
    every block once, and no rank holds copies to send."""
    out: torch.Tensor = _RingGather.apply(rows, list(counts), group)
    return out
