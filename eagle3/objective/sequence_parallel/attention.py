"""Attention over the rows of several ranks: the distribution of keys and heads.

Keys and values of step 0 are exchanged once for all TTT steps. Later steps add to each row's own
keys only, which no other row reads. All of them are rotated already, by each row's position in its
document.

    GatheredKeys   every rank gets the keys and values of all rows, and attends for its own queries
    Ulysses        Ulysses x ring: the ranks of a Ulysses group swap rows for heads, so that each
                   has all their rows and some heads; keys and values of these heads are passed
                   around the ring

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
from eagle3.objective.attention.interface import Attention, Backend, Keys, KeyValue, PackAttention
from eagle3.objective.host_tensors import tree_to_device
from eagle3.objective.row_index import Prefixes, sent_queries
from eagle3.objective.rows import ActiveRows
from eagle3.objective.sequence_parallel.collectives import all_gather, all_to_all, ring_gather
from eagle3.objective.sequence_parallel.sharding import PackShards
from eagle3.parallel.device import to_device
from eagle3.parallel.ranks import Group


def exchanging_attention(
    usp: bool,
    backend: Backend,
    active: ActiveRows,
    prefixes: Prefixes,
    shards: PackShards,
    draft: DraftConfig,
    device: torch.device,
) -> Attention:
    """`usp`: exchange heads (Ulysses) and pass keys on (ring); else gather all keys. `device`: of
    the states; indices are built on the host."""
    if usp:
        return Ulysses(backend, active, prefixes, shards, draft, device)
    queries = prefixes.queries(shards.local.active_slots(active)[: active.depth])
    if draft.num_hidden_layers > 1:
        queries.append(prefixes.every(shards.local.rows))
    return GatheredKeys(PackAttention(backend, sent_queries(queries, device)), shards, device)


class GatheredKeys:
    """Every rank attends for its own rows, to gathered keys."""

    def __init__(self, local: PackAttention, shards: PackShards, device: torch.device) -> None:
        self.local, self.group = local, shards.ranks.sequence
        rows = [shard.rows for shard in shards.all]
        self.counts = [len(part) for part in rows]
        # of all rows among the gathered ones
        self.order = to_device(torch.cat(rows).argsort(), device)

    def keys(self, k0: torch.Tensor, v0: torch.Tensor) -> Keys:
        """Keys and values of the rows held here [T_p, kv_heads, d] -> of all T."""
        gathered = all_gather(torch.cat((k0, v0), dim=1), self.counts, self.group)
        k, v = gathered[self.order].chunk(2, dim=1)
        return self.local.keys(k, v)

    def attend(
        self, step: int, q: torch.Tensor, own: KeyValue | None, keys: Keys
    ) -> tuple[torch.Tensor, Keys]:
        """See `interface.Attention`."""
        return attend_if_any(self.local, step, q, own, keys)


class Ulysses:
    """Every rank attends for the rows of its Ulysses group, with some of the heads."""

    def __init__(
        self,
        backend: Backend,
        active: ActiveRows,
        prefixes: Prefixes,
        shards: PackShards,
        draft: DraftConfig,
        device: torch.device,
    ) -> None:
        self.group, self.ring = shards.ranks.ulysses, shards.ranks.ring
        size = self.group.size
        heads = query_heads(draft, size), kv_heads(draft, size)
        tensors = [[torch.tensor(of_rank) for of_rank in kind] for kind in heads]
        self.query_heads, self.kv_heads = tree_to_device(tensors, device)
        blocks = [shards.all[start : start + size] for start in range(0, len(shards.all), size)]
        rows = [[shard.rows for shard in block] for block in blocks]  # by ring, then Ulysses
        self.sizes = [[len(of_rank) for of_rank in block] for block in rows]
        by_rank = [shard.active_slots(active) for shard in blocks[self.ring.index]]
        steps = list(zip(*by_rank, strict=True))[: active.depth]
        queries = prefixes.queries([torch.cat(ranks).sort().values for ranks in steps])
        if draft.num_hidden_layers > 1:
            group_rows = rows[self.ring.index]
            steps.append(tuple(group_rows))
            queries.append(prefixes.every(torch.cat(group_rows).sort().values))
        # rows of each rank of the group, at every step, and their order among all of these
        self.counts = [[len(slots) for slots in ranks] for ranks in steps]
        order = [torch.cat(ranks).argsort() for ranks in steps]
        inverse = [index.argsort() for index in order]
        key_order = torch.cat([of_rank for block in rows for of_rank in block]).argsort()
        self.order, self.back, self.order_of_keys = tree_to_device(
            (order, inverse, key_order), device
        )
        self.local = PackAttention(backend, sent_queries(queries, device))

    def keys(self, k0: torch.Tensor, v0: torch.Tensor) -> Keys:
        """Keys and values of the rows held here [T_p, kv_heads, d] -> of all T, some heads."""
        counts = self.sizes[self.ring.index]
        group_kv = swap_rows_for_heads((k0, v0), [self.kv_heads] * 2, counts, self.group)
        gathered = ring_gather(group_kv, [sum(block) for block in self.sizes], self.ring)
        k, v = gathered[self.order_of_keys].chunk(2, dim=1)
        return self.local.keys(k, v)

    def attend(
        self, step: int, q: torch.Tensor, own: KeyValue | None, keys: Keys
    ) -> tuple[torch.Tensor, Keys]:
        """See `interface.Attention`."""
        heads = [self.query_heads] + [self.kv_heads] * (2 if own else 0)
        swapped = swap_rows_for_heads((q, *(own or ())), heads, self.counts[step], self.group)
        widths = [len(of_rank[0]) for of_rank in heads]
        q, *own_kv = swapped[self.order[step]].split(widths, dim=1)
        own = (own_kv[0], own_kv[1]) if own_kv else None
        attended, keys = attend_if_any(self.local, step, q, own, keys)
        return self._to_rows(step, attended), keys

    def _to_rows(self, step: int, attended: torch.Tensor) -> torch.Tensor:
        """Attended values of some heads [A, heads here d] -> of the rows of this rank [A_k, heads
        d]."""
        counts = self.counts[step]
        own_count, size = counts[self.group.index], self.group.size
        by_owner = attended[self.back[step]]
        received = all_to_all(by_owner, counts, [own_count] * size, self.group)
        return received.unflatten(0, (size, own_count)).transpose(0, 1).flatten(1)


def attend_if_any(
    local: PackAttention, step: int, q: torch.Tensor, own: KeyValue | None, keys: Keys
) -> tuple[torch.Tensor, Keys]:
    """Attention of this rank. Without a query its output is empty but depends on all keys in the
    graph, so that this rank joins the collectives of the backward pass."""
    if len(q):
        return local.attend(step, q, own, keys)
    return (q + 0 * (keys.k0.sum() + keys.v0.sum())).flatten(1), keys.with_own(own)


def swap_rows_for_heads(
    parts: Sequence[torch.Tensor],  # [A, heads, d], as many heads as each has
    heads: Sequence[Sequence[torch.Tensor]],  # of each part, those that each rank gets, int64
    counts: list[int],  # rows of each rank
    group: Group,
) -> torch.Tensor:
    """Rows of this rank with all heads -> rows of all ranks with some heads, parts side by side:
    [sum(counts), heads here, d]"""
    pairs = list(zip(parts, heads, strict=True))
    for_rank = [
        torch.cat([part.index_select(1, of_rank[rank]) for part, of_rank in pairs], dim=1)
        for rank in range(group.size)
    ]
    return all_to_all(torch.cat(for_rank), [len(parts[0])] * group.size, counts, group)


def query_heads(draft: DraftConfig, size: int) -> list[list[int]]:
    """Heads of queries of each of the `size` ranks of a Ulysses group."""
    count = draft.num_attention_heads // size
    return [list(range(rank * count, (rank + 1) * count)) for rank in range(size)]


def kv_heads(draft: DraftConfig, size: int) -> list[list[int]]:
    """Heads of keys that these queries attend to."""
    total = draft.num_key_value_heads
    if total < size:
        return [[rank * total // size] for rank in range(size)]
    count = total // size
    return [list(range(rank * count, (rank + 1) * count)) for rank in range(size)]
