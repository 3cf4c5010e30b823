"""Who holds what of a pack that several sequence ranks share.

Tokens and masks are small, and every rank has them all, so all of them know the same active rows.
States are dealt out by row. Active rows, which cost nearly everything, are cut into two even
blocks for each rank, one from the front and one from the back (zig-zag): a row sees more keys the
later it stands. The others, of which only keys and values are wanted, are dealt out in even blocks.

    rows     . . a a a . . . a a a a a          a active
    rank 0       0 0             0 0
    rank 1           1     1 1 1
    others   0 0       0 1 1

Row t at step k reads the token and the teacher that row t + k has at step 0, so a rank also knows
what belongs to the K - 1 active rows behind each of its blocks. No row is computed twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from eagle3.ranks import Ranks


@dataclass(frozen=True)
class Share:
    """What one rank holds; rows number the T rows of aux, slots the R active rows. Ascending."""

    rows: torch.Tensor  # int64 [T_p], of aux
    slots: torch.Tensor  # int64 [S_p], active rows that are computed here
    taught: torch.Tensor  # int64 [R_p], slots whose row of `last` is held: all of `slots` are

    def to(self, device: torch.device) -> Share:
        return Share(*(tensor.to(device, non_blocking=True) for tensor in vars(self).values()))


@dataclass(frozen=True)
class Shares:
    """The shares of all sequence ranks of a pack, and who is who."""

    all: Sequence[Share]
    ranks: Ranks

    @property
    def mine(self) -> Share:
        return self.all[self.ranks.sequence.index]

    def to(self, device: torch.device) -> Shares:
        return Shares([share.to(device) for share in self.all], self.ranks)


def deal(active: torch.Tensor, total: int, ranks: int, steps: int) -> list[Share]:
    """Deal out `total` rows of which `active` int64 [R], ascending, have a loss at step 0."""
    size = len(active)
    others = torch.ones(total, dtype=torch.bool)
    others[active] = False
    quiet = others.nonzero().flatten()
    shares = []
    for rank in range(ranks):
        blocks = [
            (size * piece // (2 * ranks), size * (piece + 1) // (2 * ranks))
            for piece in (rank, 2 * ranks - 1 - rank)
        ]
        slots = torch.cat([torch.arange(*block) for block in blocks])
        reached = [torch.arange(a, min(b + steps - 1, size) if b > a else a) for a, b in blocks]
        first, last = len(quiet) * rank // ranks, len(quiet) * (rank + 1) // ranks
        rows = torch.cat((active[slots], quiet[first:last])).sort().values
        shares.append(Share(rows, slots, torch.cat(reached).unique()))
    return shares


@dataclass(frozen=True)
class Sharing:
    """How packs are shared."""

    ranks: Ranks
    steps: int

    def of(self, row_tokens: torch.Tensor, last_tokens: torch.Tensor) -> Shares | None:
        """The shares of a pack given by the tokens of its rows of aux [T] and last [R]; None for a
        rank alone."""
        count = self.ranks.sequence.size
        if count == 1:
            return None
        # the state at token t + 1 teaches row t at step 0: every active row has one
        active = torch.searchsorted(row_tokens, last_tokens - 1)
        return Shares(deal(active, len(row_tokens), count, self.steps), self.ranks)
