"""Which layers of the target the draft reads.

Ids are 0-based and name the *output* of a decoder layer: id j is `hidden_states[j + 1]` in
Hugging Face terms (of the last layer only before the final norm) and what SGLang calls layer j;
vLLM counts layer inputs and calls it j + 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from eagle3.config.hidden_states import MOST_LAYERS
from eagle3.errors import UserError

FEWEST_LAYERS = 7  # for which the default layers are distinct and ascending


def layer_count(text: Any) -> int:
    """Decoder layers of a target with this text configuration. In LongCat's, `num_hidden_layers`
    counts each layer twice, since it has two attentions."""
    layers = getattr(text, "num_layers", None)
    return min(layers, text.num_hidden_layers) if type(layers) is int else text.num_hidden_layers


def aux_layers(configured: Sequence[int] | None, num_layers: int) -> tuple[int, ...]:
    """Ascending layer ids; the default [1, n/2 - 1, n - 4] is EAGLE-3's.

    Raises UserError if they do not fit a target of `num_layers` layers.
    """
    if configured is None:
        if num_layers < FEWEST_LAYERS:
            raise UserError(
                f"hidden_states.aux_layers: the default needs at least {FEWEST_LAYERS} layers, the "
                f"target has {num_layers}; name ascending layers"
            )
        return 1, num_layers // 2 - 1, num_layers - 4
    layers = tuple(configured)
    ascending = all(low < high for low, high in pairwise(layers))
    if (
        not 1 <= len(layers) <= MOST_LAYERS
        or not ascending
        or layers[0] < 0
        or layers[-1] >= num_layers
    ):
        raise UserError(
            f"hidden_states.aux_layers is {list(layers)}; must be 1 to {MOST_LAYERS} ascending "
            f"layers between 0 and {num_layers - 1}"
        )
    return layers
