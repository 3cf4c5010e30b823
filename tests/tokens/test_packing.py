"""Packs: every document once, none too full, the same each time and different each epoch."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from eagle3.tokens.packing import WINDOW, batches, pack_documents

LENGTHS = st.lists(st.integers(0, 64), max_size=60)


def as_lists(packs: list[np.ndarray]) -> list[list[int]]:
    return [pack.tolist() for pack in packs]


@given(
    lengths=LENGTHS, capacity=st.integers(64, 200), seed=st.integers(0, 9), epoch=st.integers(0, 9)
)
@settings(max_examples=200, deadline=None)
def test_every_document_is_packed_once_and_no_pack_is_too_full(
    lengths: list[int], capacity: int, seed: int, epoch: int
) -> None:
    given_lengths = np.array(lengths, dtype=np.int64)
    packs = pack_documents(given_lengths, capacity, seed, epoch)
    used = sorted(document for pack in as_lists(packs) for document in pack)
    assert used == [i for i, length in enumerate(lengths) if length]
    assert all(0 < given_lengths[pack].sum() <= capacity for pack in packs)
    assert all(pack.dtype == np.int64 for pack in packs)
    again = pack_documents(given_lengths, capacity, seed, epoch)
    assert as_lists(packs) == as_lists(again)
    # first fit never leaves two packs that would fit into one, inside one window
    sums = sorted(int(given_lengths[pack].sum()) for pack in packs)
    assert len(sums) < 2 or sums[0] + sums[1] > capacity


def test_epochs_and_seeds_give_different_packs() -> None:
    lengths = np.random.default_rng(0).integers(1, 60, size=200)
    seen = [as_lists(pack_documents(lengths, 128, s, e)) for s in range(3) for e in range(3)]
    assert all(a != b for i, a in enumerate(seen) for b in seen[:i])


def test_large_sets_are_packed_tightly_and_in_random_order() -> None:
    lengths = np.random.default_rng(0).integers(1, 500, size=2 * WINDOW + 100)
    packs = pack_documents(lengths, 1024, 0, 0)
    assert lengths.sum() / (1024 * len(packs)) > 0.97
    assert sorted(np.concatenate(packs).tolist()) == list(range(len(lengths)))
    # neither the packs with long documents first, nor the documents of the file's beginning
    longest = np.array([lengths[pack].max() for pack in packs])
    number = np.array([pack.mean() for pack in packs])
    for order in (longest, number):
        assert abs(np.corrcoef(np.arange(len(order)), order)[0, 1]) < 0.1


def test_nothing_to_pack_gives_no_pack() -> None:
    assert pack_documents(np.zeros(3, dtype=np.int64), 16, 0, 0) == []
    assert pack_documents(np.empty(0, dtype=np.int64), 16, 0, 0) == []


def test_batches_are_consecutive_packs_and_the_last_may_be_smaller() -> None:
    packs = [np.array([i]) for i in range(5)]
    grouped = batches(packs, 2)
    assert [as_lists(batch) for batch in grouped] == [[[0], [1]], [[2], [3]], [[4]]]
    assert batches([], 2) == []
