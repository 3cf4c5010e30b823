"""Attention over the rows of several ranks: who gets which keys, and which heads.

Keys and values of step 0 are exchanged once for all TTT steps. Later steps add to each row's own
keys only, which nobody else reads. Positions were turned in before, by each row's global index.

    Alone      one rank: nothing is exchanged
    Gathered   every rank gets the keys and values of all rows, and attends for its own queries
    Usp        Ulysses x ring: the ranks of a Ulysses group swap rows for heads, so that each has
               all their rows and some heads; round the ring go keys and values of these heads

    sp_ulysses_size 2 x sp_ring_size 2, heads 0..3      own rows     attends for      keys of
    rank 0    ring 0, ulysses 0                          A            A B, heads 0 1   A B C D
    rank 1    ring 0, ulysses 1                          B            A B, heads 2 3   A B C D
    rank 2    ring 1, ulysses 0                          C            C D, heads 0 1   A B C D
    rank 3    ring 1, ulysses 1                          D            C D, heads 2 3   A B C D

With fewer heads of keys than ranks in a Ulysses group, a head goes to all ranks that need it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from eagle3.draft.config import DraftConfig
from eagle3.exchange import all_gather, all_to_all, ring_gather
from eagle3.objective.rows import ActiveRows
from eagle3.objective.shares import Share, Shares
from eagle3.ranks import Group

Own = tuple[torch.Tensor, torch.Tensor]  # keys and values [A_k, kv_heads, d] of the rows of a step


class Alone:
    """One rank for a pack."""

    def __init__(self, active: ActiveRows) -> None:
        self.active = active

    def keys(self, k0: torch.Tensor, v0: torch.Tensor) -> Own:
        """Keys and values of the rows held here [T_p, kv_heads, d] -> those to attend to
        [T, kv_heads here, d]."""
        return k0, v0

    def slots(self, k: int) -> torch.Tensor:
        """Rows of step k that attend here, ascending."""
        return self.active.steps[k].slots

    def spread(self, k: int, q: torch.Tensor, own: Own | None) -> tuple[torch.Tensor, Own | None]:
        """Queries and own keys and values of the rows computed here -> of those that attend here;
        behind them may stand copies."""
        return q, own

    def collect(self, k: int, attended: torch.Tensor) -> torch.Tensor:
        """The inverse for what came of it, [A, heads here * d] -> [A_k, heads * d]."""
        return attended


class Gathered(Alone):
    """Every rank attends for its own rows, to gathered keys."""

    def __init__(self, active: ActiveRows, shares: Shares) -> None:
        super().__init__(active)
        self.shares = shares

    def keys(self, k0: torch.Tensor, v0: torch.Tensor) -> Own:
        rows = [share.rows for share in self.shares.all]
        counts = [len(each) for each in rows]
        found = all_gather(torch.cat((k0, v0), dim=1), counts, self.shares.ranks.sequence)
        k, v = found[torch.cat(rows).argsort()].chunk(2, dim=1)
        return k, v


class Usp(Alone):
    """Ulysses x ring."""

    def __init__(self, active: ActiveRows, shares: Shares, draft: DraftConfig) -> None:
        super().__init__(active)
        self.ulysses, self.ring, self.draft = shares.ranks.ulysses, shares.ranks.ring, draft
        size = self.ulysses.size
        self.rings = [list(shares.all[at : at + size]) for at in range(0, len(shares.all), size)]
        self.peers: list[Share] = self.rings[self.ring.index]

    def keys(self, k0: torch.Tensor, v0: torch.Tensor) -> Own:
        counts = [len(share.rows) for share in self.peers]
        heads = kv_heads(self.draft, self.ulysses.size)
        own = _to_heads((k0, v0), [heads, heads], counts, self.ulysses)
        blocks = [sum(len(share.rows) for share in peers) for peers in self.rings]
        found = ring_gather(own, blocks, self.ring)
        rows = torch.cat([share.rows for peers in self.rings for share in peers])
        k, v = found[rows.argsort()].chunk(2, dim=1)
        return k, v

    def slots(self, k: int) -> torch.Tensor:
        return torch.cat(self._slots(k)).sort().values

    def _slots(self, k: int) -> list[torch.Tensor]:
        """Rows of step k by the rank of this Ulysses group that computes them."""
        return [self.active.among(share.slots, k) for share in self.peers]

    def spread(self, k: int, q: torch.Tensor, own: Own | None) -> tuple[torch.Tensor, Own | None]:
        slots, size = self._slots(k), self.ulysses.size
        parts, heads = [q], [query_heads(self.draft, size)]
        if own is not None:
            parts += [each[: len(q)] for each in own]  # without copies
            heads += [kv_heads(self.draft, size)] * 2
        found = _to_heads(parts, heads, [len(each) for each in slots], self.ulysses)
        found = found[torch.cat(slots).argsort()]
        if own is None:
            return found, None
        here = [len(each[0]) for each in heads]
        q, key, value = found.split(here, dim=1)
        return q, (key, value)

    def collect(self, k: int, attended: torch.Tensor) -> torch.Tensor:
        slots = self._slots(k)
        by_owner = attended[torch.cat(slots).argsort().argsort()]
        counts = [len(each) for each in slots]
        mine = counts[self.ulysses.index]
        found = all_to_all(by_owner, counts, [mine] * self.ulysses.size, self.ulysses)
        return found.unflatten(0, (self.ulysses.size, mine)).transpose(0, 1).flatten(1)


def sequence_of(
    backend: str, active: ActiveRows, shares: Shares | None, draft: DraftConfig
) -> Alone:
    """How the ranks of a pack attend: `usp`, or keys gathered under any other back end."""
    if shares is None:
        return Alone(active)
    if backend == "usp":
        return Usp(active, shares, draft)
    return Gathered(active, shares)


def query_heads(draft: DraftConfig, size: int) -> list[list[int]]:
    """Heads of queries of each rank of a Ulysses group."""
    each = draft.num_attention_heads // size
    return [list(range(rank * each, (rank + 1) * each)) for rank in range(size)]


def kv_heads(draft: DraftConfig, size: int) -> list[list[int]]:
    """Heads of keys that these queries attend to."""
    count = draft.num_key_value_heads
    if count < size:
        return [[rank * count // size] for rank in range(size)]
    each = count // size
    return [list(range(rank * each, (rank + 1) * each)) for rank in range(size)]


def _to_heads(
    parts: Sequence[torch.Tensor],  # [A, heads of each, d]
    heads: Sequence[list[list[int]]],  # of each part, for every rank
    counts: list[int],  # rows of each rank
    group: Group,
) -> torch.Tensor:
    """Rows of this rank with all heads -> rows of all ranks with its heads, parts side by side:
    [sum(counts), heads here, d]"""
    for_rank = [
        torch.cat([part[:, each[rank]] for part, each in zip(parts, heads, strict=True)], dim=1)
        for rank in range(group.size)
    ]
    return all_to_all(torch.cat(for_rank), [len(parts[0])] * group.size, counts, group)
