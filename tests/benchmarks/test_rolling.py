"""The simulation of a rolling run: it keeps the DAG's rules, and its sums can be checked."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.rolling import Rates, play
from eagle3.store.windows import peak_of_windows
from eagle3.tokens.stages import Stages

RATES = Rates(capture_seconds=3.0, train_seconds=2.0, train_start=1.0)
STAGES = st.builds(
    Stages, st.integers(1, 9), st.integers(1, 9), st.integers(1, 3), st.integers(1, 3)
)


@given(STAGES, st.integers(1, 6), st.booleans())
def test_no_more_lies_on_the_disk_than_the_plan_says(stages, gpus, rolling):
    played = play(stages, RATES, gpus, 1, rolling)
    bound = peak_of_windows([1] * stages.shards, stages) if rolling else stages.shards
    assert played.peak_shards <= bound


@given(STAGES, st.booleans())
def test_one_gpu_does_everything_one_after_another(stages, rolling):
    played = play(stages, RATES, 1, 1, rolling)
    passes = sum(len(stages.shards_of(n)) * len(stages.epochs_of(n)) for n in stages.numbers)
    work = 3.0 * played.capture_jobs + 2.0 * passes + 1.0 * stages.count
    assert played.seconds == pytest.approx(work)
    assert played.busy == pytest.approx(1.0)


def test_capture_and_training_overlap_when_there_are_gpus_for_both():
    stages = Stages(shards=4, window_shards=1, epochs=1, epochs_per_stage=1)
    # capture 3 s, stage 3 s: after the first window the one hides behind the other
    assert play(stages, RATES, 2, 1, rolling=True).seconds == pytest.approx(3 + 4 * 3)
    assert play(stages, RATES, 2, 1, rolling=True).peak_shards == 2


def test_every_round_captures_again_in_rolling_mode_only():
    stages = Stages(shards=4, window_shards=2, epochs=3, epochs_per_stage=1)
    assert play(stages, RATES, 2, 1, rolling=True).capture_jobs == 12
    assert play(stages, RATES, 2, 1, rolling=False).capture_jobs == 4
