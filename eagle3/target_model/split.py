"""How many ranks a target can be split over. Imports no torch: used before any job."""

from __future__ import annotations

import math
from typing import Any

from eagle3.errors import UserError

# figures of a configuration that the plans of transformers split over the ranks
SPLIT = (
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
    "moe_intermediate_size",
    "shared_expert_intermediate_size",
)


def check_transformers(config: Any, ranks: int, title: str = "transformers") -> None:
    """Raise UserError unless each figure that transformers splits is a multiple of `ranks`.

    `config`: the target's text configuration; `title`: the engine's name.
    """
    figures = {key: _numbers(getattr(config, key, None)) for key in SPLIT}
    common = math.gcd(*(number for numbers in figures.values() for number in numbers))
    for key, numbers in figures.items():
        if math.gcd(*numbers) % ranks:
            allowed = [n for n in range(1, ranks) if common % n == 0]
            raise UserError(
                f"resources.capture.tensor_parallel is {ranks}, which does not divide the target's "
                f"{key} ({getattr(config, key)}); use {' or '.join(map(str, allowed))}"
            )


def check_head_groups(config: Any, ranks: int, title: str) -> None:
    """Raise UserError unless SGLang and vLLM can split the heads: both replicate key-value heads
    where there are fewer of them than ranks.

    `config`: the target's text configuration; `title`: the engine's name.
    """
    heads = getattr(config, "num_attention_heads", None)
    kv = getattr(config, "num_key_value_heads", None) or heads
    if not isinstance(heads, int) or not isinstance(kv, int):
        return  # one figure for each layer, or none: the engine decides
    if heads % ranks or (kv % ranks and ranks % kv):
        raise UserError(
            f"resources.capture.tensor_parallel is {ranks}; {title} cannot split the target's "
            f"{heads} heads with {kv} of keys over that many ranks: use a divisor of {heads} that "
            f"divides {kv} or is a multiple of it"
        )


def _numbers(value: Any) -> list[int]:
    """A figure of the configuration: one number, one for each layer, or none."""
    return list(value) if isinstance(value, list | tuple) else [value] if value else []
