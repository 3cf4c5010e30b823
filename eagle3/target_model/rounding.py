"""How far apart the states of two engines may be that run the same target.

Rounding adds up over the layers. Of a published model with 30 layers (SmolLM2-135M), the median
state behind the final norm moves by 2 % of its size between two orders of adding up in bfloat16,
and by 5 to 7 % if a layer's inputs are rounded to eight bits, as engines do with fp8 weights. In a
mixture of experts a small difference may send a token to another expert. Of the same model,
neighbouring layers are at least 23 % apart (`python -m benchmarks.real.rounding`).
"""

from __future__ import annotations

from typing import Any

from eagle3.target_model.config import figure

EXPERTS = ("num_experts_per_tok", "num_local_experts", "n_routed_experts", "num_experts")
# as a share of a state's size
PLAIN, NOISY = 0.06, 0.2
# another layer's output is the one that was stored if it is nearer by this factor
NEARER = 0.7


def most_different(config: Any) -> float:
    """The largest relative error, at the median row, of a right state. `config`: of the target."""
    mixture = any((figure(config, name) or 0) > 1 for name in EXPERTS)
    quantised = getattr(config, "quantization_config", None) is not None
    return NOISY if mixture or quantised else PLAIN


def least_cosine(config: Any) -> float:
    """The same as a cosine: of two vectors of equal length that differ by a share s, 1 - s² / 2."""
    different = most_different(config)
    return 1 - different * different / 2
