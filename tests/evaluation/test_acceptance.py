"""Acceptance figures from the counts of verify passes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eagle3.evaluation.acceptance import acceptance, bootstrap_interval, unigram_acceptance
from eagle3.evaluation.decoding import TIE, Decoded, compare

DRAFTS = 5
COMMITTED = st.lists(
    st.lists(st.integers(1, DRAFTS + 1), max_size=12), min_size=1, max_size=8
).filter(any)


@given(COMMITTED)
def test_acceptance_length_is_one_plus_the_sum_over_positions(committed):
    result = acceptance(committed, DRAFTS)
    share = result["per_position_acceptance"]
    assert len(share) == DRAFTS
    assert result["acceptance_length"] == pytest.approx(1 + sum(share))
    assert share == sorted(share, reverse=True)
    assert 1 <= result["acceptance_length"] <= DRAFTS + 1


@given(COMMITTED)
def test_the_histogram_holds_every_pass_once(committed):
    result = acceptance(committed, DRAFTS)
    histogram, passes = result["accepted_histogram"], result["verify_passes"]
    assert len(histogram) == DRAFTS + 1
    assert sum(histogram) == passes == sum(map(len, committed))
    mean = sum(i * n for i, n in enumerate(histogram)) / passes
    assert result["acceptance_length"] == pytest.approx(1 + mean)


@given(st.lists(st.lists(st.integers(1, 6), min_size=4, max_size=8), min_size=5, max_size=20))
def test_the_interval_holds_the_point_and_repeats(committed):
    result = acceptance(committed, DRAFTS)
    low, high = result["acceptance_length_ci95"]
    assert low - 1e-12 <= result["acceptance_length"] <= high + 1e-12
    assert bootstrap_interval(committed) == [low, high]


def test_one_prompt_gives_an_interval_of_no_width():
    assert bootstrap_interval([[2, 3, 4]]) == [3.0, 3.0]


def test_known_counts():
    result = acceptance([[1, 3], [6], []], DRAFTS)
    assert result["acceptance_length"] == pytest.approx(10 / 3)
    assert result["per_position_acceptance"] == pytest.approx([2 / 3, 2 / 3, 1 / 3, 1 / 3, 1 / 3])
    assert result["accepted_histogram"] == [1, 0, 1, 0, 0, 1]


def test_no_pass_at_all_is_no_acceptance():
    """Every answer was a single token: nothing was ever verified."""
    result = acceptance([[], []], DRAFTS)
    assert (result["verify_passes"], result["acceptance_length"]) == (0, 0.0)
    assert result["acceptance_length_ci95"] == [0.0, 0.0]


def text(tokens, gaps=()):
    return Decoded(tokens=list(tokens), gaps=list(gaps))


def test_equal_texts_are_identical():
    assert compare(text([1, 2]), text([1, 2], [1, 1])).identical


@pytest.mark.parametrize(("gap", "tie"), [(TIE / 2, 1), (TIE, None), (1.0, None)])
def test_a_difference_is_excused_only_where_the_target_was_undecided(gap, tie):
    result = compare(text([1, 9, 9]), text([1, 2, 3], [1.0, gap, 0.0]))
    assert (result.identical, result.tie_at) == (False, tie)


def test_only_the_first_difference_counts():
    assert compare(text([9, 5]), text([1, 2], [1.0, 0.0])).tie_at is None


def test_a_text_that_ends_early_is_no_tie():
    result = compare(text([1]), text([1, 2], [0.0, 0.0]))
    assert (result.identical, result.tie_at) == (False, None)


def test_the_most_frequent_token_is_what_a_draft_has_to_beat() -> None:
    answers = [[5, 1, 1, 2], [9, 1, 3], [1]]  # the first of each is the prompt's
    assert unigram_acceptance(answers) == 3 / 5
    assert unigram_acceptance([]) == 0
