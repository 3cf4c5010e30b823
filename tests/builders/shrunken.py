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

from tests.data.toy_tokenizers import LLAMA3, QWEN3, toy_tokenizer

ROWS = Path(__file__).resolve().parents[2] / "data" / "demo_chat.jsonl"
VOCAB, CONTEXT = 704, 1024
NO_THOUGHT = (
    "{{ '<|im_start|>assistant\\n' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}"
    "{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}{% endif %}"
)
# gpt-oss: effort and date in front, an answer in a channel of its own, the last one returns
HARMONY = (
    "{{ '<|start|>system<|message|>Current date: ' + strftime_now('%Y-%m-%d') + '\\n' }}"
    "{{ 'Reasoning: ' + (reasoning_effort or 'medium') + '<|end|>' }}"
    "{% for m in messages %}"
    "{% if m.role == 'assistant' %}"
    "{{ '<|start|>assistant<|channel|>final<|message|>' + m.content }}"
    "{{ '<|return|>' if loop.last and not add_generation_prompt else '<|end|>' }}"
    "{% else %}{{ '<|start|>' + m.role + '<|message|>' + m.content + '<|end|>' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}"
)
FAMILIES = {  # template, marks of its own, tokens that end generation
    "llama": (LLAMA3, (), ("<|eot_id|>",)),
    "qwen3": (
        QWEN3.replace("{{ '<|im_start|>assistant\\n' }}{% endif %}", NO_THOUGHT),
        (),
        ("<|im_end|>", "<|endoftext|>"),
    ),
    "gpt_oss": (
        HARMONY,
        ("<|start|>", "<|message|>", "<|channel|>", "<|end|>", "<|return|>", "<|call|>"),
        ("<|return|>", "<|call|>"),
    ),
}
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
}
# targets whose rotary positions or heads no draft can have (tests/rules/test_target_types.py)
KINDS = ["sliding_attention", "full_attention"] * 4
BY_KIND = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
}
GEMMA = {"rope_parameters": BY_KIND, "layer_types": KINDS, "sliding_window": 16}
PARTIAL = {"rope_type": "default", "rope_theta": 5e5, "partial_rotary_factor": 0.5}
GDN = {"layer_types": ["linear_attention", "full_attention"] * 4, "linear_num_value_heads": 4}
GDN |= {"linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
TYPES: Mapping[str, tuple[str, str, dict[str, Any]]] = {
    "gemma3": ("gemma3_text", "llama", GEMMA | figures(8, 64, 4, 1, 16, 128)),
    "gemma4": (
        "gemma4_text",
        "llama",
        GEMMA
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
