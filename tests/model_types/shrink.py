"""A tiny configuration of any causal model type, by one rule from the default of its class.

Figures are known by what their names say (heads, experts, ranks, widths), wherever they stand: at
the top, or in a part of the configuration. Lists with an entry for each layer are cut. What a type
needs besides is in `SPECIAL`, with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

VOCAB, HIDDEN, HEADS, LAYERS, CONTEXT = 96, 64, 4, 8, 256
MARKS = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
# what a name says: the first that matches counts, and makes no figure larger
RULES: tuple[tuple[str, int], ...] = (
    (r"vocab_size", VOCAB),
    (r"position_embeddings|^n_positions|^n_ctx|max_seq(uence)?_len|^seq_length", CONTEXT),
    (r"index_topk", 2048),  # of scores that are often 0: a choice among equals is no model's
    (r"^n_group$|topk_group", 1),
    (r"experts?_per_tok|^moe_(top)?k$|top_?k", 2),
    (r"shared_experts|zero_expert_num", 1),
    (r"num_.*experts|^n_.*experts|num_experts", 4),
    (r"key_value_heads|kv_heads|num_key_heads|n?groups$", 2),
    (r"mamba_(n|num)_heads|n_mamba_heads|^num_heads$", 8),  # hidden size x expand / width of a head
    (r"head_dim$|kv_channels|d_?head$|headdim$|value_dim|key_dim", 16),
    (r"heads?(_per_layer)?$", HEADS),
    (r"ngram", 64),
    (r"rotary_dim$", 8),
    (r"rank$|adapter", 16),
    (r"d_ssm$|mamba_intermediate", 128),
    (r"state_size|d_state|chunk_size|chunk_length", 16),
    (r"sliding_window|window", 8),
    (r"hidden_size_per_layer_input", 8),
    (r"expert.*size|moe.*size|ffn_hidden|intermediate|ffn_dim|^n_inner|^d_inner", 96),
    (r"hidden_size$|embedding_dim$|^n_embe?d$|^d_model$|lru_width|word_embed_proj_dim", HIDDEN),
)
WRITTEN = (  # by transformers into every part
    *("model_type", "transformers_version", "architectures", "dtype", "_name_or_path"),
    *("output_attentions", "output_hidden_states", "return_dict", "chunk_size_feed_forward"),
    *("id2label", "label2id", "problem_type", "is_encoder_decoder"),
)
LAYER_COUNT = re.compile(r"^(num|n)_(?!.*heads).*layers?$|^n_layers?$|^num_layers$")


def tiny_config(kind: str) -> PreTrainedConfig:
    """A model type's configuration, small: of the text part, if that has a class of its own."""
    whole = AutoConfig.for_model(kind)
    text = whole.get_text_config(decoder=True)
    values = text.to_dict()
    layers = text.num_hidden_layers
    names = getattr(text, "attribute_map", {})
    count = names.get("num_hidden_layers", "num_hidden_layers")
    small = shrunk(values, layers) | {count: LAYERS}
    for name, token in MARKS.items():
        if name in small:
            small[name] = token
    heads, wide = (names.get(name, name) for name in ("num_attention_heads", "hidden_size"))
    if values.get("num_key_value_heads") == values.get(heads):
        small["num_key_value_heads"] = HEADS  # latent attention has one of each
    for name, value in values.items():
        if type(value) is int and value == 2 * values[wide] and name.endswith("hidden_size"):
            small[name] = 2 * HIDDEN
    small["tie_word_embeddings"] = False
    for name, size in (("num_key_value_heads", 2), ("head_dim", 16)):
        if name in small and small[name] is None:  # their classes look it up without a default
            small[name] = size
    tiny = type(text)(**small | SPECIAL.get(text.model_type, {}))
    if type(text) in MODEL_FOR_CAUSAL_LM_MAPPING:
        return tiny
    rest = shrunk(whole.to_dict(), layers) | {"text_config": tiny.to_dict()}
    return type(whole)(**rest | SPECIAL.get(whole.model_type, {}))


def shrunk(values: Mapping[str, Any], layers: int) -> dict[str, Any]:
    return {
        name: _value(str(name), value, layers)
        for name, value in values.items()
        if name not in WRITTEN
    }


def _value(name: str, value: Any, layers: int) -> Any:
    if isinstance(value, Mapping) and "rope" not in name:
        kept = {
            key: one for key, one in value.items() if not str(key).isdigit() or int(key) < LAYERS
        }
        return shrunk(kept, layers)
    if isinstance(value, list | tuple) and len(value) == layers:
        return [_value(name, one, layers) for one in value[:LAYERS]]
    if type(value) is not int:
        return value
    if LAYER_COUNT.search(name):
        return min(value, value * LAYERS // layers) if layers > LAYERS else value
    for pattern, size in RULES:
        if re.search(pattern, name):
            return min(value, size)
    return value


# figures that a class leaves open, so that its default builds no model
ROPE = {"rope_type": "default", "rope_theta": 1e4}
EXPERTS = {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2}
INDEXER = {"n_heads": 4, "kv_heads": 1, "head_dim": 16, "budget": 8, "compress_ratio": 2}
SPECIAL: dict[str, dict[str, Any]] = {
    "cohere_compass_text": {
        "rope_parameters": {"full_attention": ROPE | {"mrope_section": [2, 3, 3]}}
    },
    "doge": {"keep_window_size": 2048},  # beyond it, a text's states depend on its batch
    "dbrx": {"attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8.0}},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "dots1": EXPERTS,
    "emu3": {"vocabulary_map": {"<image>": 5}},
    "falcon_h1": {"mamba_d_head": 16},
    # by default each of its layers has attention
    "lfm2": {"layer_types": ["conv", "full_attention"] * 4},
    "longcat_flash": {"num_layers": LAYERS, "num_hidden_layers": 2 * LAYERS, "qk_head_dim": 32},
    "mllama_text_model": {"cross_attention_layers": [5]},  # reads images alone
    "xlstm": {"num_blocks": LAYERS},
    "nemotron_h": {"layers_block_type": ["mamba", "attention", "mlp", "moe"] * 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 4},
    "qwen4_exp_text": {f"indexer_{name}": value for name, value in INDEXER.items()},
}
