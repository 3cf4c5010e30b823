"""The draft's layers in transformers' keys, the base of every engine's config.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eagle3.config.draft import MOST_LAYERS
from eagle3.draft.config import DraftConfig

AUX_IDS, USUAL_AUX = "eagle_aux_hidden_state_layer_ids", 3
# keys with the same name in DraftConfig
SAME = (
    "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim",
    "vocab_size", "rms_norm_eps", "max_position_embeddings", "bos_token_id", "eos_token_id",
)  # fmt: skip


def layer_config(config: DraftConfig, dtype: str) -> dict[str, Any]:
    """All keys of Llama layers, with nothing left to an engine's defaults.

    Rotary parameters are in transformers' old keys (rope_theta, rope_scaling) and in that of
    version 5 (rope_parameters); an engine that finds neither uses a theta of 10000.
    """
    scaling = {k: v for k, v in config.rope.items() if k != "rope_theta"}
    count = len(config.aux_layers)
    return {
        # with q/k norms the layer is a Qwen3 layer
        "model_type": "qwen3" if config.qk_norm else "llama",
        **{name: getattr(config, name) for name in SAME},
        "num_hidden_layers": config.num_hidden_layers,
        "hidden_act": "silu",
        "rope_theta": config.rope["rope_theta"],
        "rope_scaling": None if scaling.get("rope_type") == "default" else scaling,
        "rope_parameters": dict(config.rope),
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,  # true would make the embedding the head
        "torch_dtype": dtype,
        "use_cache": True,
        **_window(config),
        # vLLM's Llama class reads only this key, and assumes three without it
        **({} if count == USUAL_AUX else {"num_aux_hidden_states": count}),
    }


def _window(config: DraftConfig) -> dict[str, Any]:
    """Keys of a window, as vLLM and the speculators library read them; none with full attention."""
    if config.sliding_window is None:
        return {}
    return {
        "sliding_window": config.sliding_window,
        "use_sliding_window": True,  # else a Qwen3 configuration drops it
        "layer_types": ["sliding_attention"] * config.num_hidden_layers,
    }


def draft_config(
    layer: Mapping[str, Any], draft: Mapping[str, Any], aux_layers: list[int]
) -> DraftConfig:
    """The shape of a draft from a config.json: `layer` has the keys above, `draft` the others.

    Raises KeyError with the name of a missing key, TypeError for an impossible shape.
    """
    if layer["num_hidden_layers"] not in range(1, MOST_LAYERS + 1):
        raise TypeError(f"num_hidden_layers is {layer['num_hidden_layers']!r:.90}")
    return DraftConfig(
        **{name: layer[name] for name in SAME},
        rope=layer["rope_parameters"],
        draft_vocab_size=draft["draft_vocab_size"],
        aux_layers=tuple(aux_layers),
        num_hidden_layers=layer["num_hidden_layers"],
        sliding_window=layer.get("sliding_window"),
        qk_norm=layer["model_type"] == "qwen3",
        fc_norm=draft["fc_norm"],
        norm_output=draft["norm_output"],
        norm_before_residual=draft["norm_before_residual"],
    )
