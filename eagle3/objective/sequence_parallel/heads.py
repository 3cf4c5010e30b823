"""Heads of attention by the rank of a Ulysses group."""

from __future__ import annotations

from eagle3.draft.config import DraftConfig


def query_heads(draft: DraftConfig, size: int) -> list[list[int]]:
    """Heads of queries of each of `size` ranks."""
    count = draft.num_attention_heads // size
    return [list(range(rank * count, (rank + 1) * count)) for rank in range(size)]


def kv_heads(draft: DraftConfig, size: int) -> list[list[int]]:
    """Heads of keys that these queries attend to."""
    total = draft.num_key_value_heads
    if total < size:
        return [[rank * total // size] for rank in range(size)]
    count = total // size
    return [list(range(rank * count, (rank + 1) * count)) for rank in range(size)]
