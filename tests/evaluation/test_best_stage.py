"""Which stage is the best, and when training has nothing more to bring."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eagle3.evaluation.acceptance import choose
from eagle3.training.early_stop import is_exhausted

LENGTHS = st.lists(st.sampled_from([1.0, 1.5, 2.0, 2.5]), min_size=1, max_size=8)


def score(stage, length):
    return {
        "stage": stage,
        "epochs_done": float(stage),
        "acceptance_length": length,
        "acceptance_length_ci95": [length, length],
        "per_position_acceptance": [length - 1],
        "stopped_early": False,
        "walk": {"acceptance_length": length + 0.1},
        "rows": 3,
    }


@given(LENGTHS)
def test_the_best_stage_is_the_first_of_the_longest_acceptance(lengths):
    result = choose([score(i, length) for i, length in enumerate(lengths, start=1)])
    assert result["stage"] == 1 + lengths.index(max(lengths))
    assert [stage["acceptance_length"] for stage in result["stages"]] == lengths
    assert result["stages"][0]["walk_acceptance_length"] == pytest.approx(lengths[0] + 0.1)
    assert result["metric"] in result["stages"][0]


@pytest.mark.parametrize(
    ("lengths", "patience", "exhausted"),
    [
        ([], 1, False),
        ([2.0], 1, False),
        ([2.0, 2.0], 1, True),
        ([2.0, 2.1], 1, False),
        ([2.0, 1.9, 2.1], 2, False),
        ([2.0, 1.9, 1.95], 2, True),
    ],
)
def test_patience_ends_after_stages_that_bring_nothing_better(lengths, patience, exhausted):
    assert is_exhausted(lengths, patience) is exhausted


@given(LENGTHS, st.integers(1, 3))
def test_once_stopped_every_later_stage_is_left_out_too(lengths, patience):
    """A stage that is left out has the acceptance of the one before it."""
    if is_exhausted(lengths, patience):
        assert is_exhausted([*lengths, lengths[-1]], patience)
