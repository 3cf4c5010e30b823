"""The draft vocabulary against a Counter, and the laws of its two tables."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eagle3.errors import UserError
from eagle3.files.artifact import Manifest, Settings
from eagle3.files.tensor_file import save_tensors
from eagle3.tokens.vocab import (
    KIND,
    build_mapping,
    check_size,
    count_supervised,
    coverage,
    coverage_curve,
    read_mapping,
)

V = 12


def shard(tokens: list[tuple[int, bool]]) -> tuple[np.ndarray, np.ndarray]:
    ids = np.array([token for token, _ in tokens], dtype=np.int32)
    return ids, np.array([kept for _, kept in tokens], dtype=np.uint8)


SHARDS = st.lists(st.lists(st.tuples(st.integers(0, V - 1), st.booleans()), max_size=30))


@given(shards=SHARDS, size=st.integers(1, V), forced=st.sets(st.integers(0, V + 3), max_size=4))
@settings(max_examples=200, deadline=None)
def test_the_mapping_equals_a_count_by_hand(
    shards: list[list[tuple[int, bool]]], size: int, forced: set[int]
) -> None:
    seen = Counter(token for tokens in shards for token, kept in tokens if kept)
    counts = count_supervised(map(shard, shards), V)
    assert counts.tolist() == [seen[i] for i in range(V)]
    must = sorted(i for i in forced if seen[i])
    if len(must) > size:
        with pytest.raises(UserError, match=f"is {size}, smaller than the {len(must)} control"):
            build_mapping(counts, size, forced)
        return
    mapping = build_mapping(counts, size, forced)
    rest = sorted((i for i in range(V) if i not in must), key=lambda i: (-seen[i], i))
    chosen = sorted(must + rest[: size - len(must)])
    assert mapping.target_ids.tolist() == chosen
    # the laws of the two tables
    assert (np.diff(mapping.target_ids) > 0).all()
    assert np.array_equal(np.flatnonzero(mapping.t2d), mapping.d2t + np.arange(size))
    assert (mapping.d2t >= 0).all()
    assert (np.diff(mapping.d2t) >= 0).all()
    assert (mapping.d2t.dtype, mapping.t2d.dtype) == (np.int64, np.bool_)
    assert (len(mapping.d2t), len(mapping.t2d)) == (size, V)
    expected = [chosen.index(i) if i in chosen else -1 for i in range(V)]
    assert mapping.draft_ids.tolist() == expected
    total = sum(seen.values())
    assert coverage(counts, mapping) == (sum(seen[i] for i in chosen) / total if total else 0)


def test_ties_go_to_the_lower_id() -> None:
    counts = np.array([1, 5, 5, 5, 9, 5])
    assert build_mapping(counts, 3, []).target_ids.tolist() == [1, 2, 4]


def test_control_tokens_are_forced_in_only_if_they_were_ever_supervised() -> None:
    counts = np.array([9, 8, 7, 1, 0, 0])
    assert build_mapping(counts, 2, [3, 5]).target_ids.tolist() == [0, 3]
    assert build_mapping(counts, 2, [3, 3]).target_ids.tolist() == [0, 3]


def test_too_few_distinct_tokens_are_filled_up_with_the_lowest_unused_ids() -> None:
    counts = np.array([0, 0, 0, 4, 0, 2])
    assert build_mapping(counts, 4, []).target_ids.tolist() == [0, 1, 3, 5]


def test_equal_sizes_give_the_identity() -> None:
    mapping = build_mapping(np.array([0, 3, 0, 7]), 4, [2])
    assert mapping.d2t.tolist() == [0, 0, 0, 0]
    assert mapping.t2d.all()
    assert mapping.draft_ids.tolist() == [0, 1, 2, 3]


def test_a_draft_vocabulary_larger_than_the_targets_is_refused() -> None:
    check_size(4, 4)
    for attempt in (lambda: check_size(5, 4), lambda: build_mapping(np.zeros(4, int), 5, [])):
        with pytest.raises(UserError) as caught:
            attempt()
        assert str(caught.value) == (
            "vocab.draft_vocab_size is 5, larger than the target's vocabulary of 4; use at most 4"
        )


@pytest.mark.parametrize("kept", [True, False])
def test_a_token_outside_the_vocabulary_is_refused_supervised_or_not(kept: bool) -> None:
    with pytest.raises(UserError, match=r"^target.model: token id 12 is outside its vocabulary of"):
        count_supervised([shard([(1, True), (V, kept)])], V)


def test_the_coverage_curve_is_that_of_the_best_vocabulary_of_each_size() -> None:
    counts = np.array([1, 5, 0, 4])
    assert coverage_curve(counts) == ([1, 2, 3, 4], [0.5, 0.9, 1.0, 1.0])
    for size, share in zip(*coverage_curve(counts), strict=True):
        assert coverage(counts, build_mapping(counts, size, [])) == pytest.approx(share)
    sizes, shares = coverage_curve(np.ones(1000, dtype=np.int64), points=10)
    assert (len(sizes), sizes[0], sizes[-1], shares[-1]) == (10, 1, 1000, 1.0)
    assert coverage_curve(np.zeros(3, dtype=np.int64)) == ([1, 2, 3], [0.0, 0.0, 0.0])


def test_a_mapping_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    made = build_mapping(np.array([1, 5, 0, 4]), 2, [])
    manifest = Manifest.of(KIND, Settings("vocab", {}, {}))
    save_tensors(tmp_path / "m.safetensors", {"d2t": made.d2t, "t2d": made.t2d}, manifest)
    result, stored = read_mapping(tmp_path / "m.safetensors", manifest.settings_digest)
    assert result.target_ids.tolist() == [1, 3]
    assert np.array_equal(result.t2d, made.t2d)
    assert stored.kind == KIND
    with pytest.raises(UserError, match="was made under other settings"):
        read_mapping(tmp_path / "m.safetensors", "0" * 16)
