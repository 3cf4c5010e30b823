"""Rows that go from rank to rank, and their gradients that come back.

Every rank knows how many rows each of them sends, so no sizes are exchanged. All ranks of a group
must call these in the same order, those without a row too; backward passes then meet as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist

from eagle3.ranks import Group


class _AllToAll(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, rows: torch.Tensor, sent: list[int], received: list[int], group: Group
    ) -> torch.Tensor:
        ctx.sent, ctx.received, ctx.group = sent, received, group
        return _all_to_all(rows, sent, received, group)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return _all_to_all(grads[0], ctx.received, ctx.sent, ctx.group), None, None, None


def _all_to_all(
    rows: torch.Tensor, sent: list[int], received: list[int], group: Group
) -> torch.Tensor:
    out = rows.new_empty(sum(received), *rows.shape[1:])
    dist.all_to_all_single(out, rows.contiguous(), received, sent, group.handle)
    return out


def all_to_all(
    rows: torch.Tensor, sent: Sequence[int], received: Sequence[int], group: Group
) -> torch.Tensor:
    """rows [sum(sent), ...], those for rank 0 of the group first -> [sum(received), ...]"""
    out: torch.Tensor = _AllToAll.apply(rows, list(sent), list(received), group)
    return out


def all_gather(rows: torch.Tensor, counts: Sequence[int], group: Group) -> torch.Tensor:
    """The rows of every rank, in the order of ranks; `counts`: how many each one has."""
    copies = rows.expand(group.size, *rows.shape).flatten(0, 1)
    return all_to_all(copies, [len(rows)] * group.size, counts, group)


class _Round(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, counts: list[int], group: Group) -> torch.Tensor:
        ctx.counts, ctx.group = counts, group
        blocks = [rows.new_empty(count, *rows.shape[1:]) for count in counts]
        blocks[group.index] = rows.contiguous()
        for turn in range(group.size - 1):
            sent, received = ((group.index - turn - behind) % group.size for behind in (0, 1))
            _pass_on(blocks[sent], blocks[received], group)
        return torch.cat(blocks)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        group, blocks = ctx.group, [block.contiguous() for block in grads[0].split(ctx.counts)]
        # each block travels on to its owner, and every rank adds its share
        for turn in range(group.size - 1):
            sent, received = ((group.index - 1 - turn - more) % group.size for more in (0, 1))
            share = torch.empty_like(blocks[received])
            _pass_on(blocks[sent], share, group)
            blocks[received] = blocks[received] + share
        return blocks[group.index], None, None


def _pass_on(sent: torch.Tensor, received: torch.Tensor, group: Group) -> None:
    """Send to the next rank of the ring what the one before sends the like of."""
    following, before = ((group.index + way) % group.size for way in (1, -1))
    calls = []
    if len(sent):
        calls.append(dist.P2POp(dist.isend, sent, group=group.handle, group_peer=following))
    if len(received):
        calls.append(dist.P2POp(dist.irecv, received, group=group.handle, group_peer=before))
    for call in dist.batch_isend_irecv(calls) if calls else []:
        call.wait()


def ring_gather(rows: torch.Tensor, counts: Sequence[int], group: Group) -> torch.Tensor:
    """As `all_gather`, block by block from neighbour to neighbour: each link of the ring carries
    every block once, and nobody holds copies to send."""
    out: torch.Tensor = _Round.apply(rows, list(counts), group)
    return out
