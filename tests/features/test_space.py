"""Whether states fit: the largest window by trying, and the sentence that names what does."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eagle3.errors import UserError
from eagle3.features.space import check_space, largest_window, shortage

SIZES = st.lists(st.integers(0, 50), min_size=1, max_size=12)


def fits(shards, window, available):
    windows = [shards[i : i + window] for i in range(0, len(shards), window)]
    pairs = zip(windows, [*windows[1:], []], strict=True)
    return all(sum(a) + sum(b) <= available for a, b in pairs)


@given(SIZES, st.integers(0, 400))
def test_the_largest_window_is_the_largest_that_fits(shards, available):
    found = largest_window(shards, available)
    assert found == max(
        (w for w in range(1, len(shards) + 1) if fits(shards, w, available)), default=0
    )


@given(SIZES, st.integers(-10, 700))
def test_a_sentence_is_given_exactly_when_shards_do_not_fit(shards, available):
    assert (shortage(shards, available, "are free") is None) == (sum(shards) <= available)


def test_the_sentence_names_the_shards_and_the_window_that_fit():
    text = shortage([2 * 10**9] * 10, 9 * 10**9, "are free")
    assert "need 20.000 GB but 9.000 GB are free" in text
    assert "the first 4 of 10 shards fit (dataset.num_samples)" in text
    assert "two windows fit at once with window_shards 2 at most" in text
    assert "not even two shards fit at once" in shortage([2 * 10**9] * 10, 3 * 10**9, "are free")


@pytest.fixture
def disk(monkeypatch):
    """A disk with as much room as the test says."""
    room = SimpleNamespace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: room)
    return room


def name(number):
    return f"shard-{number:05d}.safetensors"


def test_without_a_plan_only_the_own_shard_is_known_to_come(tmp_path, disk):
    check_space(tmp_path / name(0), 100, {}, None)
    with pytest.raises(UserError, match="are free"):
        check_space(tmp_path / name(0), 101, {}, None)


def test_shards_that_are_there_or_half_written_are_not_counted_twice(tmp_path, disk):
    planned = {name(i): 40 for i in range(4)}
    with pytest.raises(UserError, match="hidden states need"):
        check_space(tmp_path / name(0), 40, planned, None)
    (tmp_path / name(1)).write_bytes(bytes(40))
    (tmp_path / f".{name(2)}.abcd.tmp").write_bytes(bytes(20))
    check_space(tmp_path / name(0), 40, planned, None)


def test_a_budget_counts_what_lies_there_already(tmp_path, disk):
    (tmp_path / name(1)).write_bytes(bytes(50))
    check_space(tmp_path / name(0), 40, {}, 90 / 1e9)
    with pytest.raises(UserError, match=r"are left of resources\.disk_budget_gb"):
        check_space(tmp_path / name(0), 41, {}, 90 / 1e9)
