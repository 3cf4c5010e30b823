"""The rows of a pack that each sequence rank has.

Tokens and masks are small, and every rank has all of them, so all ranks know the active rows.
States are distributed by row. Active rows, which take nearly all the time, are cut into two even
blocks for each rank, one from the front and one from the back (zig-zag): later rows see more keys.
The others, of which only keys and values are needed, are split into even blocks.

    rows     . . a a a . . . a a a a a          a active
    rank 0       0 0             0 0
    rank 1           1     1 1 1
    others   0 0       0 1 1

Row t at step k reads the token and the teacher that row t + k has at step 0, so a rank also holds
the teachers of the K - 1 active rows after each of its blocks. No row is computed twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from eagle3.objective.rows import ActiveRows
from eagle3.parallel.ranks import Ranks


@dataclass(frozen=True)
class RowShard:
    """The rows of one rank, as indices of the T rows of aux (rows) and the R active rows (slots).
    Ascending, and always on the host."""

    rows: torch.Tensor  # int64 [T_p], of aux
    slots: torch.Tensor  # int64 [S_p], active rows that are computed here
    taught: torch.Tensor  # int64 [R_p], slots whose row of `last` is held: all of `slots` are

    def active_slots(self, active: ActiveRows) -> list[torch.Tensor]:
        """The active ones of `slots`, int64, for each step."""
        last = active.last[self.slots]
        return [self.slots[last >= k] for k in range(len(active.slots))]


@dataclass(frozen=True)
class PackShards:
    """The shards of a pack by sequence rank, and which rank this is."""

    all: Sequence[RowShard]
    ranks: Ranks

    @property
    def local(self) -> RowShard:
        return self.all[self.ranks.sequence.index]


def deal_rows(active: torch.Tensor, total: int, ranks: int, steps: int) -> list[RowShard]:
    """Deal out `total` rows of which `active` int64 [R], ascending, have a loss at step 0."""
    size = len(active)
    is_other = torch.ones(total, dtype=torch.bool)
    is_other[active] = False
    others = is_other.nonzero().flatten()
    shards = []
    for rank in range(ranks):
        blocks = [
            (size * piece // (2 * ranks), size * (piece + 1) // (2 * ranks))
            for piece in (rank, 2 * ranks - 1 - rank)
        ]
        slots = torch.cat([torch.arange(*block) for block in blocks])
        taught = [torch.arange(a, min(b + steps - 1, size) if b > a else a) for a, b in blocks]
        first, last = len(others) * rank // ranks, len(others) * (rank + 1) // ranks
        rows = torch.cat((active[slots], others[first:last])).sort().values
        shards.append(RowShard(rows, slots, torch.cat(taught).unique()))
    return shards


@dataclass(frozen=True)
class SequenceSharding:
    """How packs are sharded among sequence ranks."""

    ranks: Ranks
    steps: int

    def of(self, row_tokens: torch.Tensor, last_tokens: torch.Tensor) -> PackShards | None:
        """The shards of a pack with these tokens of its rows of aux [T] and last [R]; None if no
        rank shares it."""
        count = self.ranks.sequence.size
        if count == 1:
            return None
        # the state at token t + 1 teaches row t at step 0: every active row has one
        active = torch.searchsorted(row_tokens, last_tokens - 1)
        return PackShards(deal_rows(active, len(row_tokens), count, self.steps), self.ranks)
