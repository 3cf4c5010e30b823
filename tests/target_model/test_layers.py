"""Which layers the draft reads."""

from __future__ import annotations

import pytest

from eagle3.errors import UserError
from eagle3.target_model.layers import aux_layers


@pytest.mark.parametrize("layers", range(7, 100))
def test_the_default_is_distinct_and_ascending_from_seven_layers_on(layers):
    low, mid, high = aux_layers(None, layers)
    assert (low, mid, high) == (1, layers // 2 - 1, layers - 4)
    assert 0 <= low < mid < high < layers


def test_known_models():
    assert aux_layers(None, 32) == (1, 15, 28)  # Llama-3.1-8B
    assert aux_layers(None, 48) == (1, 23, 44)  # Qwen3-30B-A3B


@pytest.mark.parametrize("chosen", [[0, 3, 6], [7], [0, 1], [0, 1, 2, 3, 4, 5, 6, 7]])
def test_any_number_of_layers_may_be_named(chosen):
    assert aux_layers(chosen, 8) == tuple(chosen)


WRONG = [None, [], [6], [0, 1, 6], [2, 1, 3], [1, 1, 2], [-1, 1, 2], [2, 1], [*range(17)]]


@pytest.mark.parametrize("chosen", WRONG)
def test_layers_that_do_not_fit_are_refused_by_key(chosen):
    with pytest.raises(UserError, match=r"hidden_states\.aux_layers"):
        aux_layers(chosen, 6)
