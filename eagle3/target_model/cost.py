"""What a pass of the target costs, from its configuration alone."""

from __future__ import annotations

from typing import Any

from eagle3.target_model.config import dense_width, figure
from eagle3.target_model.layers import layer_count


def target_flops_per_token(config: Any) -> float:
    """FLOPs of one forward pass of the target's body; of a mixture, with the experts used. Where a
    configuration has no heads or no width, those of a usual layer are assumed."""
    h, layers = config.hidden_size, layer_count(config)
    heads = figure(config, "num_attention_heads") or 1
    kv = figure(config, "num_key_value_heads") or heads
    d = figure(config, "head_dim") or h // heads
    attention = h * d * (2 * heads + 2 * kv)
    experts = figure(config, "num_experts_per_tok") or 1
    width = figure(config, "moe_intermediate_size")
    # Mixtral gives the width of one expert as intermediate_size
    width = width or figure(config, "intermediate_size") or dense_width(config) or 4 * h
    mlp = 3 * h * experts * width
    return 2.0 * layers * (attention + mlp)


def parameters_read(config: Any) -> float:
    """Parameters that a pass of the target reads for one token: its body and its head."""
    return target_flops_per_token(config) / 2 + config.hidden_size * config.vocab_size
