"""Names and shapes of a draft's parameters. Imports no torch."""

from __future__ import annotations

from eagle3.draft.config import DraftConfig

LAYER = "midlayer."  # how names of the first decoder layer's tensors begin
HEAD = "lm_head.weight"


def parameter_shapes(config: DraftConfig) -> dict[str, tuple[int, ...]]:
    """Every parameter of a draft and its shape."""
    h = config.hidden_size
    shapes: dict[str, tuple[int, ...]] = {
        "fc.weight": (h, config.aux_width),
        **_layer_shapes(config, LAYER, 2 * h),  # the first layer reads the embedding too
        f"{LAYER}hidden_norm.weight": (h,),
        "norm.weight": (h,),
        HEAD: (config.draft_vocab_size, h),
    }
    for number in range(1, config.num_hidden_layers):
        shapes |= _layer_shapes(config, f"layers.{number}.", h)
    if config.fc_norm:
        shapes |= {f"fc_norm.{chunk}.weight": (h,) for chunk in range(len(config.aux_layers))}
    return shapes


def _layer_shapes(config: DraftConfig, layer: str, width: int) -> dict[str, tuple[int, ...]]:
    """The tensors of a Llama layer whose attention reads `width` numbers."""
    h, d, mlp = config.hidden_size, config.head_dim, config.intermediate_size
    heads, kv = config.num_attention_heads, config.num_key_value_heads
    shapes: dict[str, tuple[int, ...]] = {
        "input_layernorm": (h,),
        "post_attention_layernorm": (h,),
        "self_attn.q_proj": (heads * d, width),
        "self_attn.k_proj": (kv * d, width),
        "self_attn.v_proj": (kv * d, width),
        "self_attn.o_proj": (h, heads * d),
        "mlp.gate_proj": (mlp, h),
        "mlp.up_proj": (mlp, h),
        "mlp.down_proj": (h, mlp),
    }
    if config.qk_norm:
        shapes |= {f"self_attn.{name}_norm": (d,) for name in "qk"}
    return {f"{layer}{name}.weight": shape for name, shape in shapes.items()}
