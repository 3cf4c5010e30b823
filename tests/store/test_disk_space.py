"""Whether states fit, and the sentence that names what does."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import pytest

from eagle3.errors import UserError
from eagle3.store.disk_space import Need, Room, check_space, plan_shortage
from eagle3.store.windows import stage_folder
from eagle3.tokens.stages import Stages

MB = 10**6


@pytest.fixture
def disk(monkeypatch):
    """A disk with as much room as the test says."""
    room = SimpleNamespace(free=100 * MB)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: room)
    return room


def name(number):
    return f"shard-{number:05d}.safetensors"


def make(path, size, written=0):
    """A file of `size` bytes of which only the first `written` take room."""
    with open(path, "wb") as file:
        file.write(bytes(written))
        file.truncate(size)


def need(planned=None, shards=4, window=None):
    """Shards of 40 MB each unless said; in rolling mode if a window is given."""
    if planned is None:
        planned = {name(i): 40 * MB for i in range(shards)}
    stages = Stages(shards, window or shards, 1, 1)
    return Need(planned, stages, rolling=window is not None)


UNKNOWN = need(planned={})


def test_the_sentence_names_the_shards_and_the_window_that_fit(tmp_path, disk):
    planned = {name(i): 2000 * MB for i in range(10)}
    disk.free = 9000 * MB
    text = plan_shortage(need(planned, 10), tmp_path, None, 0)
    assert text.startswith("hidden states need 20.000 GB but 9.000 GB are free: ")
    assert "4 of the 10 shards still to come fit, so lower dataset.num_samples" in text
    assert text.endswith("for rolling mode the largest window_shards is 2")
    disk.free = 3000 * MB
    assert "not even two shards fit at once" in plan_shortage(need(planned, 10), tmp_path, None, 0)


def test_without_a_plan_only_the_own_shard_is_known_to_come(tmp_path, disk):
    check_space(UNKNOWN, tmp_path / name(0), 100 * MB, None, None)
    make(tmp_path / f".{name(1)}.abcd.tmp", 50 * MB)  # another job's, which is not known to come
    with pytest.raises(UserError, match="are free: use a smaller"):
        check_space(UNKNOWN, tmp_path / name(0), 101 * MB, None, None)


def test_shards_that_are_there_or_half_written_are_not_counted_twice(tmp_path, disk):
    with pytest.raises(UserError, match="hidden states need"):
        check_space(need(), tmp_path / name(0), 40 * MB, None, None)
    make(tmp_path / name(1), 40 * MB)
    make(tmp_path / f".{name(2)}.abcd.tmp", 40 * MB, written=30 * MB)  # its file has a hole
    check_space(need(), tmp_path / name(0), 40 * MB, None, None)
    make(tmp_path / f".{name(2)}.abcd.tmp", 40 * MB, written=10 * MB)
    with pytest.raises(UserError, match="hidden states need"):
        check_space(need(), tmp_path / name(0), 40 * MB, None, None)


def test_files_of_another_codec_will_be_replaced(tmp_path, disk):
    """Both ways: smaller ones make room, larger ones are still to come."""
    for number in range(4):
        make(tmp_path / name(number), 100 * MB)
    disk.free = 0
    smaller, larger = ({name(i): size * MB for i in range(4)} for size in (50, 200))
    assert plan_shortage(need(smaller), tmp_path, None, 0) is None
    text = plan_shortage(need(larger), tmp_path, None, 0)
    assert "hidden states need 0.800 GB but 0.400 GB" in text


def test_shards_of_an_earlier_larger_run_are_nobodys_room(tmp_path, disk):
    make(tmp_path / name(7), 500 * MB)
    one = need({name(0): 90 * MB}, 1)
    assert Room.of(tmp_path, one.shards).free == 100 * MB
    assert plan_shortage(one, tmp_path, None, 0) is None
    assert "are free after checkpoints: " in plan_shortage(one, tmp_path, None, 20 * MB)


def test_a_budget_counts_what_lies_there_already(tmp_path, disk):
    make(tmp_path / name(1), 50 * MB)
    two = need({name(0): 40 * MB, name(1): 50 * MB}, 2)
    check_space(two, tmp_path / name(0), 40 * MB, None, 0.090)
    with pytest.raises(UserError, match=r"are left of resources\.disk_budget_gb"):
        check_space(two, tmp_path / name(0), 41 * MB, None, 0.090)


def test_held_out_states_count_beside_those_of_training(tmp_path, disk):
    """On the disk until they are there, of the budget always."""
    train, held_out = tmp_path / "train", tmp_path / "eval"
    two = {name(0): 40 * MB, name(1): 40 * MB}
    both = Need(two, Stages(2, 2, 1, 1), rolling=False, held_out={name(0): 30 * MB})
    rolling = Need(two, Stages(2, 1, 1, 1), rolling=True, held_out={name(0): 30 * MB})
    disk.free = 110 * MB
    for each in (both, rolling):
        assert plan_shortage(each, train, 0.110, 0) is None
        assert "are left of resources.disk_budget_gb" in plan_shortage(each, train, 0.109, 0)
        text = plan_shortage(each, train, None, MB)
        assert "but 0.079 GB are free after checkpoints and held-out states: " in text
    # two shards are to come; of the first window, one
    captures = ((both, train, None, 80), (rolling, stage_folder(train, 1), 1, 40))
    for each, folder, stage, disk_mb in captures:
        disk.free = disk_mb * MB
        with pytest.raises(UserError, match="are free after held-out states: "):
            check_space(each, folder / name(0), 40 * MB, stage, None)
    held_out.mkdir()
    make(held_out / name(0), 30 * MB)
    for each, folder, stage, disk_mb in captures:
        disk.free = disk_mb * MB
        check_space(each, folder / name(0), 40 * MB, stage, None)
    disk.free = 80 * MB
    assert plan_shortage(both, train, 0.110, 0) is None
    assert plan_shortage(both, train, 0.109, 0) is not None


def test_in_rolling_mode_a_capture_asks_for_its_own_window_beside_the_others(tmp_path, disk):
    """Eight shards of 40 MB, two a window; stage 1 is trained on, stage 2 is captured."""
    rolling, first, second = need(shards=8, window=2), *(stage_folder(tmp_path, s) for s in (1, 2))
    for folder in (first, second):
        folder.mkdir()
    for number in (0, 1):
        make(first / name(number), 40 * MB)
    disk.free = 80 * MB
    check_space(rolling, second / name(2), 40 * MB, 2, 0.160)
    make(second / name(2), 40 * MB)
    disk.free = 40 * MB
    check_space(rolling, second / name(3), 40 * MB, 2, 0.160)
    with pytest.raises(UserError, match=r"lower hidden_states\.window_shards to 1"):
        check_space(rolling, second / name(3), 40 * MB, 2, 0.159)
    disk.free = 39 * MB
    with pytest.raises(UserError, match=r"are free: lower hidden_states\.window_shards to 1"):
        check_space(rolling, second / name(3), 40 * MB, 2, None)


def test_in_rolling_mode_a_plan_asks_for_two_windows(tmp_path, disk):
    for stage in (1, 2):
        stage_folder(tmp_path, stage).mkdir()
        make(stage_folder(tmp_path, stage) / name(stage), 40 * MB)  # will go, or are of the two
    disk.free = 80 * MB
    assert plan_shortage(need(shards=8, window=2), tmp_path, None, 0) is None
    text = plan_shortage(need(shards=8, window=3), tmp_path, None, 0)
    assert text.startswith("two windows of hidden states need 0.240 GB but 0.160 GB are free: ")
    assert "lower hidden_states.window_shards to 2, or use a smaller hidden_states.codec" in text


def test_a_folder_that_is_not_there_yet_is_asked_through_the_one_above(tmp_path):
    check_space(UNKNOWN, tmp_path / "not" / "yet" / name(0), 1, None, None)
    assert not (tmp_path / "not").exists()
