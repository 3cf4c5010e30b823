"""The estimate: its limits are known without any model."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eagle3.report.speedup import estimate

SHARES = st.lists(st.floats(0, 1), min_size=1, max_size=8).map(lambda s: sorted(s, reverse=True))


@given(SHARES, st.floats(1, 1e6))
def test_the_speed_up_is_tokens_over_passes_that_a_round_costs(shares: list, draft: float) -> None:
    result = estimate(shares, draft, 1e7)
    assert result.cost == draft / 1e7
    for length, factor in enumerate(result.by_length, start=1):
        assert factor == pytest.approx((1 + sum(shares[:length])) / (1 + length * result.cost))
    assert result.best == result.by_length[result.best_length - 1] == max(result.by_length)


@given(SHARES)
def test_a_draft_that_costs_nothing_gains_its_acceptance_length(shares: list) -> None:
    assert estimate(shares, 0, 1e9).by_length[-1] == pytest.approx(1 + sum(shares))


def test_a_draft_as_large_as_the_target_never_gains() -> None:
    result = estimate([1.0, 1.0, 1.0], 5e8, 5e8)
    assert result.best == 1.0 and result.best_length == 1
    assert max(estimate([0.9, 0.5], 5e8, 5e8).by_length) < 1


def test_a_position_that_is_never_accepted_is_not_worth_a_draft() -> None:
    assert estimate([0.8, 0.6, 0.0, 0.0], 1e8, 1e9).best_length == 2
