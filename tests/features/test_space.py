"""Whether states fit: the largest window by trying, and the sentence that names what does."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eagle3.errors import UserError
from eagle3.features.space import Room, check_space, largest_window, shortage

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
    assert "4 of the 10 shards still to come fit, so lower dataset.num_samples" in text
    assert "for rolling mode the largest window_shards is 2" in text
    assert "not even two shards fit at once" in shortage([2 * 10**9] * 10, 3 * 10**9, "are free")


MB = 10**6


@pytest.fixture
def disk(monkeypatch):
    """A disk with as much room as the test says."""
    room = SimpleNamespace(free=100 * MB)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: room)
    return room


def name(number):
    return f"shard-{number:05d}.safetensors"


def make(path, size, written=None):
    """A file of `size` bytes of which only the first `written` take room."""
    with open(path, "wb") as file:
        file.write(bytes(size if written is None else written))
        file.truncate(size)


def test_without_a_plan_only_the_own_shard_is_known_to_come(tmp_path, disk):
    check_space(tmp_path / name(0), 100 * MB, {}, None)
    make(tmp_path / f".{name(1)}.abcd.tmp", 50 * MB)  # another job's, which is not known to come
    with pytest.raises(UserError, match="are free"):
        check_space(tmp_path / name(0), 101 * MB, {}, None)


def test_shards_that_are_there_or_half_written_are_not_counted_twice(tmp_path, disk):
    planned = {name(i): 40 * MB for i in range(4)}
    with pytest.raises(UserError, match="hidden states need"):
        check_space(tmp_path / name(0), 40 * MB, planned, None)
    make(tmp_path / name(1), 40 * MB)
    make(tmp_path / f".{name(2)}.abcd.tmp", 40 * MB, written=30 * MB)  # its file has a hole
    check_space(tmp_path / name(0), 40 * MB, planned, None)
    make(tmp_path / f".{name(2)}.abcd.tmp", 40 * MB, written=10 * MB)
    with pytest.raises(UserError, match="hidden states need"):
        check_space(tmp_path / name(0), 40 * MB, planned, None)


def test_files_of_another_codec_will_be_replaced(tmp_path, disk):
    """Both ways: smaller ones make room, larger ones are still to come."""
    for number in range(4):
        make(tmp_path / name(number), 100 * MB)
    disk.free = 0
    assert Room.of(tmp_path, {name(i): 50 * MB for i in range(4)}).shortage(None) is None
    larger = Room.of(tmp_path, {name(i): 200 * MB for i in range(4)})
    assert larger.present == 0 and "hidden states need 0.800 GB but 0.400 GB" in larger.shortage(
        None
    )


def test_shards_of_an_earlier_larger_run_are_nobodys_room(tmp_path, disk):
    make(tmp_path / name(7), 500 * MB)
    room = Room.of(tmp_path, {name(0): 90 * MB})
    assert room.free == 100 * MB and room.shortage(None) is None
    assert "are free beside the checkpoints" in room.shortage(None, reserved=20 * MB)


def test_a_budget_counts_what_lies_there_already(tmp_path, disk):
    make(tmp_path / name(1), 50 * MB)
    planned = {name(1): 50 * MB}
    check_space(tmp_path / name(0), 40 * MB, planned, 0.090)
    with pytest.raises(UserError, match=r"are left of resources\.disk_budget_gb"):
        check_space(tmp_path / name(0), 41 * MB, planned, 0.090)


def test_a_folder_that_is_not_there_yet_is_asked_through_the_one_above(tmp_path):
    check_space(tmp_path / "not" / "yet" / name(0), 1, {}, None)
    assert not (tmp_path / "not").exists()
