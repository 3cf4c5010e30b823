"""Stages: every shard in every epoch once, in windows, known from the configuration alone."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from eagle3.tokens.stages import Stages

STAGES = st.builds(
    Stages, st.integers(1, 12), st.integers(1, 14), st.integers(1, 7), st.integers(1, 8)
)


@given(STAGES)
def test_every_shard_is_read_once_in_every_epoch(stages: Stages) -> None:
    reads = Counter(
        (shard, epoch)
        for stage in stages.numbers
        for shard in stages.shards_of(stage)
        for epoch in stages.epochs_of(stage)
    )
    every = [(s, e) for s in range(stages.shards) for e in range(stages.epochs)]
    assert reads == Counter(every)


@given(STAGES)
def test_no_stage_is_empty_and_none_is_larger_than_asked_for(stages: Stages) -> None:
    for stage in stages.numbers:
        assert 1 <= len(stages.shards_of(stage)) <= stages.window_shards
        assert 1 <= len(stages.epochs_of(stage)) <= stages.epochs_per_stage


@given(STAGES)
def test_the_first_reader_of_a_shard_is_the_first_stage_whose_window_holds_it(stages) -> None:
    for shard in range(stages.shards):
        readers = [stage for stage in stages.numbers if shard in stages.shards_of(stage)]
        assert stages.first_reader(shard) == readers[0]


def test_windows_follow_each_other_and_rounds_follow_windows() -> None:
    stages = Stages(shards=5, window_shards=2, epochs=3, epochs_per_stage=2)
    assert [list(stages.shards_of(n)) for n in stages.numbers] == [[0, 1], [2, 3], [4]] * 2
    assert [list(stages.epochs_of(n)) for n in stages.numbers] == [[0, 1]] * 3 + [[2]] * 3


def test_without_windows_stages_share_the_epochs_out() -> None:
    stages = Stages(shards=5, window_shards=5, epochs=5, epochs_per_stage=2)
    assert [list(stages.epochs_of(n)) for n in stages.numbers] == [[0, 1], [2, 3], [4]]
    assert all(stages.shards_of(n) == range(5) for n in stages.numbers)
