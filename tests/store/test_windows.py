"""Two windows on the disk: the peak by replaying a run, and what makes room for a window."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from eagle3.store import windows
from eagle3.store.windows import (
    bytes_beside,
    drop_other_windows,
    largest_window,
    peak_of_windows,
    stage_folder,
)
from eagle3.tokens.stages import Stages

SIZES = st.lists(st.integers(0, 50), min_size=1, max_size=12)
ROUNDS = st.integers(1, 3)


def replayed_peak(shards, stages):
    """Captures run as early as the gate allows, and a window goes when its stage is trained."""
    disk, peak, captured = {}, 0, 0
    for trained in range(stages.count + 1):
        disk.pop(trained, None)
        while captured < min(trained + 2, stages.count):
            captured += 1
            disk[captured] = sum(shards[i] for i in stages.shards_of(captured))
        peak = max(peak, sum(disk.values()))
    return peak


@given(SIZES, st.integers(1, 12), ROUNDS)
def test_the_peak_is_that_of_a_run_that_captures_as_early_as_it_may(shards, window, rounds):
    stages = Stages(len(shards), window, rounds, 1)
    assert peak_of_windows(shards, stages) == replayed_peak(shards, stages)


@given(SIZES, st.integers(0, 400), ROUNDS)
def test_the_largest_window_is_the_largest_that_fits(shards, available, rounds):
    stages = Stages(len(shards), 1, rounds, 1)
    fitting = [
        window
        for window in range(1, len(shards) + 1)
        if replayed_peak(shards, replace(stages, window_shards=window)) <= available
    ]
    assert largest_window(shards, stages, available) == max(fitting, default=0)


def make(folder, stage, *names):
    where = stage_folder(folder, stage)
    where.mkdir(parents=True, exist_ok=True)
    for name in names:
        (where / name).write_bytes(bytes(10))


def test_only_neighbours_of_a_window_stay_and_what_checks_found_stays_everywhere(tmp_path):
    shard, check = "shard-00000.safetensors", "shard-00000.check.json"
    files = (shard, f".{shard}.ab12.tmp", check)
    stages = (1, 2, 3, 4, 12)
    for stage in stages:
        make(tmp_path, stage, *files)
    (tmp_path / "shard-00000.safetensors").write_bytes(bytes(10))  # of keep mode: not its business
    copy = tmp_path / "stage-0001.bak" / shard  # a user's
    copy.parent.mkdir()
    copy.write_bytes(bytes(10))
    assert bytes_beside(tmp_path) == 100
    assert bytes_beside(tmp_path, 3) == 80
    drop_other_windows(tmp_path, 3)
    left = {s: sorted(p.name for p in stage_folder(tmp_path, s).iterdir()) for s in stages}
    assert left == {s: sorted(files) if s in (2, 3, 4) else [check] for s in stages}
    assert (tmp_path / "shard-00000.safetensors").exists() and copy.exists()


def test_a_folder_that_is_not_there_yet_has_nothing_to_drop(tmp_path):
    drop_other_windows(tmp_path / "not yet", 3)
    assert bytes_beside(tmp_path / "not yet") == 0


def test_a_shard_that_vanishes_while_it_is_looked_at_counts_nothing(tmp_path, monkeypatch):
    """Snakemake removes a window, and other jobs name their shards, at any moment."""
    make(tmp_path, 1, "shard-00000.safetensors", "shard-00001.safetensors")
    whole = windows._shards

    def vanishing(folder):
        for number, path in whole(folder):
            path.unlink() if path.name.startswith("shard-00000") else None
            yield number, path

    monkeypatch.setattr(windows, "_shards", vanishing)
    assert bytes_beside(tmp_path) == 10
