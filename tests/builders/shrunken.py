"""Random copies of the presets' targets, small: each in its own architecture, with the quirks of
its shape (heads wider than the model, experts, windows, sinks), the marks and template of its
family, and more rows in the embedding than tokens.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers

from tests.builders.families import FAMILIES
from tests.data.toy_tokenizers import toy_tokenizer

ROWS = Path(__file__).resolve().parents[2] / "data" / "demo_chat.jsonl"
VOCAB, CONTEXT = 704, 1024
LLAMA_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 1.5e5,
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 32,
}
QWEN_ROPE = {"rope_type": "default", "rope_theta": 1e6}
EXPERTS = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 16}


def figures(layers: int, hidden: int, heads: int, kv: int, head_dim: int, width: int) -> Any:
    return {
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "head_dim": head_dim,
        "intermediate_size": width,
    }


LLAMA = {"rope_parameters": LLAMA_ROPE, "rms_norm_eps": 1e-5}
QWEN = {"rope_parameters": QWEN_ROPE, "rms_norm_eps": 1e-6}
MOE = QWEN | EXPERTS | {"norm_topk_prob": True, "decoder_sparse_step": 1}
OSS = {"rope_parameters": YARN, "rms_norm_eps": 1e-5, "sliding_window": 16}
OSS |= {"num_local_experts": 8, "num_experts_per_tok": 4}
# rotary positions that no draft can have
KINDS = ["sliding_attention", "full_attention"] * 4
BY_KIND = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
}
GEMMA_TEXT = {"rope_parameters": BY_KIND, "layer_types": KINDS, "sliding_window": 16}
PARTIAL = {"rope_type": "default", "rope_theta": 5e5, "partial_rotary_factor": 0.5}
GDN = {"layer_types": ["linear_attention", "full_attention"] * 4, "linear_num_value_heads": 4}
GDN |= {"linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
QUARTER = {"rope_type": "default", "rope_theta": 1e7, "partial_rotary_factor": 0.25}
NEXT = GDN | {"rope_parameters": QUARTER, "rms_norm_eps": 1e-6}
SPARSE = EXPERTS | {"shared_expert_intermediate_size": 16, "norm_topk_prob": True}
GLM_MOE = {"n_routed_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
GLM_MOE |= {"n_shared_experts": 1, "first_k_dense_replace": 1, "use_qk_norm": True}
GLM_MOE |= {"rope_parameters": PARTIAL | {"rope_theta": 1e6}, "pad_token_id": None}
# latent attention has as many heads of keys as of queries, and the rotary part as its head_dim
LATENT = {"q_lora_rank": 24, "kv_lora_rank": 16, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8}
LATENT |= {"v_head_dim": 16, "n_routed_experts": 8, "n_group": 2, "topk_group": 1}
LATENT |= {"num_experts_per_tok": 2, "n_shared_experts": 1, "first_k_dense_replace": 1}
LATENT |= {"moe_intermediate_size": 16, "rms_norm_eps": 1e-6}
DEEP_ROPE = {
    "rope_type": "yarn",
    "rope_theta": 1e4,
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "original_max_position_embeddings": 32,
}
LONG = {"rope_type": "longrope", "rope_theta": 1e4, "partial_rotary_factor": 0.75}
LONG |= {"short_factor": [1.0] * 6, "long_factor": [1.5] * 6}
LONG |= {"original_max_position_embeddings": 512}
LLAMA4_TEXT = {"rope_parameters": LLAMA_ROPE, "rms_norm_eps": 1e-5, "num_local_experts": 4}
LLAMA4_TEXT |= {"intermediate_size_mlp": 128, "num_experts_per_tok": 1}
LLAMA4_TEXT |= {"attention_chunk_size": 64, "interleave_moe_layer_step": 1}
# by the preset's name up to its data: model type, family of tokenizer, shape
SHAPES: Mapping[str, tuple[str, str, dict[str, Any]]] = {
    "llama3.1-8b": ("llama", "llama", LLAMA | figures(8, 64, 4, 1, 16, 224)),
    "llama3.3-70b": ("llama", "llama", LLAMA | figures(10, 64, 8, 1, 8, 224)),
    "qwen3-8b": ("qwen3", "qwen3", QWEN | figures(9, 64, 4, 1, 16, 192)),
    "qwen3-32b": ("qwen3", "qwen3", QWEN | figures(8, 80, 8, 1, 16, 400)),
    "qwen3-30b-a3b": ("qwen3_moe", "qwen3", MOE | figures(8, 32, 8, 1, 8, 96)),
    "qwen3-235b-a22b": ("qwen3_moe", "qwen3", MOE | figures(9, 32, 16, 1, 4, 96)),
    "gpt-oss-20b": ("gpt_oss", "gpt_oss", OSS | figures(8, 48, 8, 1, 8, 48)),
    "gpt-oss-120b": (
        "gpt_oss",
        "gpt_oss",
        OSS | figures(9, 48, 8, 1, 8, 48) | {"num_local_experts": 16},
    ),
    "qwen3-next-80b-a3b": ("qwen3_next", "qwen3", NEXT | SPARSE | figures(8, 64, 4, 1, 16, 128)),
    "qwen3.6-27b": ("qwen3_5_text", "qwen3", NEXT | figures(8, 80, 6, 1, 16, 272)),
    "qwen3.6-35b-a3b": ("qwen3_5_moe_text", "qwen3", NEXT | SPARSE | figures(8, 64, 4, 1, 16, 96)),
    "gemma3-27b": ("gemma3_text", "gemma", GEMMA_TEXT | figures(8, 84, 4, 2, 16, 336)),
    "glm4.5-air": ("glm4_moe", "glm", GLM_MOE | figures(8, 64, 12, 1, 16, 176)),
    "glm4.6": ("glm4_moe", "glm", GLM_MOE | figures(9, 80, 12, 1, 16, 192)),
    "phi4-mini": (
        "phi3",
        "phi4_mini",
        {"rope_parameters": LONG, "original_max_position_embeddings": 512, "pad_token_id": None}
        | figures(8, 48, 3, 1, 16, 128),
    ),
    "deepseek-v3.1": (
        "deepseek_v3",
        "deepseek",
        LATENT | {"rope_parameters": DEEP_ROPE} | figures(8, 112, 4, 4, 8, 288),
    ),
    "llama4-scout": ("llama4_text", "llama4", LLAMA4_TEXT | figures(8, 80, 5, 1, 16, 64)),
    "qwen3-8b-32k": ("qwen3", "qwen3", QWEN | figures(8, 64, 4, 2, 16, 192)),
    "llama3.1-8b-32k": ("llama", "llama", LLAMA | figures(8, 64, 4, 2, 16, 224)),
}
TYPES: Mapping[str, tuple[str, str, dict[str, Any]]] = {
    "gemma3": ("gemma3_text", "llama", GEMMA_TEXT | figures(8, 64, 4, 1, 16, 128)),
    "gemma4": (
        "gemma4_text",
        "llama",
        GEMMA_TEXT
        | figures(8, 64, 4, 1, 16, 128)
        | {"global_head_dim": 32, "hidden_size_per_layer_input": 0, "num_kv_shared_layers": 0},
    ),
    "glm4": (
        "glm4",
        "llama",
        {"rope_parameters": PARTIAL, "pad_token_id": None} | figures(8, 64, 4, 2, 16, 128),
    ),
    "qwen3.5": (
        "qwen3_5_text",
        "qwen3",
        {"rope_parameters": PARTIAL} | GDN | figures(8, 64, 4, 1, 16, 128),
    ),
}


def save_shrunken(folder: Path, name: str) -> Path:
    """A model directory in bfloat16 with its tokenizer."""
    kind, family, shape = {**SHAPES, **TYPES}[name]
    template, marks, stops = FAMILIES[family]
    with open(ROWS, encoding="utf-8") as rows:
        texts = [turn["value"] for row, _ in zip(rows, range(200), strict=False)
                 for turn in json.loads(row)["conversations"]]  # fmt: skip
    tokenizer = toy_tokenizer(template, merged=texts)
    tokenizer.add_special_tokens({"additional_special_tokens": list(marks), "eos_token": stops[0]})
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(
        kind,
        vocab_size=VOCAB,
        max_position_embeddings=CONTEXT,
        initializer_range=0.15,  # wide enough that greedy text is not one token over and over
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.convert_tokens_to_ids(list(stops)),
        **shape,
    )
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    with torch.no_grad():
        for weight_name, weight in model.named_parameters():
            if weight_name.endswith("norm.weight"):
                weight.mul_(1 + 0.3 * torch.rand(weight.shape))
            elif weight_name.endswith(("sinks", "bias")):
                weight.normal_(std=0.5)
    model.save_pretrained(folder)
    return folder
