"""The draft's shape, derived from real configurations."""

from __future__ import annotations

import json

import pytest
from transformers import (
    Gemma3nTextConfig,
    Gemma3TextConfig,
    Gemma4TextConfig,
    Glm4MoeConfig,
    GptOssConfig,
    Llama4TextConfig,
    LlamaConfig,
    MambaConfig,
    MixtralConfig,
    Qwen3Config,
    Qwen3MoeConfig,
    Qwen3NextConfig,
)

from eagle3.draft.config import DraftConfig, compromises, derive_config
from eagle3.errors import UserError

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
LLAMA_31_8B = LlamaConfig(
    vocab_size=128256,
    hidden_size=4096,
    intermediate_size=14336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    max_position_embeddings=131072,
    rms_norm_eps=1e-5,
    rope_parameters=LLAMA3_ROPE,
    bos_token_id=128000,
    eos_token_id=[128001, 128008, 128009],
)
QWEN3_30B_A3B = Qwen3MoeConfig(
    vocab_size=151936,
    hidden_size=2048,
    intermediate_size=6144,
    moe_intermediate_size=768,
    num_hidden_layers=48,
    num_attention_heads=32,
    num_key_value_heads=4,
    head_dim=128,
    num_experts=128,
    num_experts_per_tok=8,
    max_position_embeddings=40960,
    rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
)


def derived(target, **overrides):
    return derive_config(target, overrides, 32000, (1, 2, 4))


def test_llama_31_8b():
    draft = derived(LLAMA_31_8B)
    assert (draft.hidden_size, draft.intermediate_size, draft.vocab_size) == (4096, 14336, 128256)
    assert (draft.num_attention_heads, draft.num_key_value_heads, draft.head_dim) == (32, 8, 128)
    assert (draft.rms_norm_eps, draft.max_position_embeddings) == (1e-5, 131072)
    assert draft.rope == LLAMA3_ROPE
    assert draft.eos_token_id == [128001, 128008, 128009]


def test_qwen3_30b_a3b_has_heads_wider_than_its_hidden_state_and_a_dense_mlp():
    draft = derived(QWEN3_30B_A3B)
    assert draft.num_attention_heads * draft.head_dim == 4096 != draft.hidden_size == 2048
    assert draft.num_key_value_heads == 4
    assert draft.intermediate_size == 6144  # never the 768 of one expert
    assert draft.rope == {"rope_type": "default", "rope_theta": 1000000.0}


def test_gpt_oss_only_has_experts_so_the_draft_has_a_width_of_its_own():
    yarn = {"rope_type": "yarn", "rope_theta": 150000.0, "factor": 32.0, "beta_fast": 32.0}
    yarn |= {"beta_slow": 1.0, "truncate": False, "original_max_position_embeddings": 4096}
    target = GptOssConfig(hidden_size=2880, num_attention_heads=64, head_dim=64)
    assert derived(target).intermediate_size == 10112  # 3.5 times 2880, to the next 64
    assert derived(MixtralConfig()).intermediate_size == 14336
    (sentence,) = compromises(target, {})
    assert "no dense width; the draft's is 10112" in sentence
    assert "(draft.intermediate_size)" in sentence
    draft = derived(target, intermediate_size=17280)
    assert compromises(target, {"intermediate_size": 17280}) == []
    assert (draft.intermediate_size, draft.num_key_value_heads, draft.head_dim) == (17280, 8, 64)
    assert draft.rope == yarn
    assert draft.max_position_embeddings == target.max_position_embeddings == 131072


def test_a_dense_width_is_found_where_it_has_another_name_or_is_a_list():
    assert derived(Llama4TextConfig()).intermediate_size == 16384  # of its dense layers
    assert derived(Gemma3nTextConfig()).intermediate_size == 16384  # of each layer


def test_qwen3_with_its_explicit_head_dim():
    target = Qwen3Config(hidden_size=1024, num_attention_heads=16, num_key_value_heads=8)
    assert derived(target).head_dim == target.head_dim == 128 != 1024 // 16


def test_overrides_win_and_null_takes_the_targets_figure():
    draft = derived(LLAMA_31_8B, intermediate_size=8192, num_key_value_heads=4, head_dim=None)
    assert (draft.intermediate_size, draft.num_key_value_heads, draft.head_dim) == (8192, 4, 128)
    # more heads do not make a head narrower
    assert derived(LLAMA_31_8B, num_attention_heads=64).head_dim == 128


@pytest.mark.parametrize("config", [LLAMA_31_8B, QWEN3_30B_A3B])
def test_a_configuration_survives_json(config):
    draft = derived(config)
    assert DraftConfig.from_dict(json.loads(json.dumps(draft.to_dict()))) == draft


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        ({"num_key_value_heads": 5}, "num_attention_heads 32 is not a multiple"),
        ({"head_dim": 7}, "head_dim is 7"),
        ({"num_attention_heads": 24}, "num_attention_heads 24 does not divide"),
    ],
)
def test_a_shape_that_cannot_be_is_refused_by_key(overrides, key):
    with pytest.raises(UserError, match=f"draft.{key}"):
        derived(LLAMA_31_8B, **overrides)


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "dynamic", "rope_theta": 3e4, "factor": 2.0},
        {"rope_type": "default", "rope_theta": 3e4, "partial_rotary_factor": 0.5},
    ],
)
def test_rotary_positions_that_an_engine_would_turn_otherwise_become_plain_ones(rope):
    target = LlamaConfig(rope_parameters=rope)
    assert derived(target).rope == {"rope_type": "default", "rope_theta": 3e4}
    (sentence,) = compromises(target, {})
    assert "plain, over whole heads, with theta 30000 (draft.rope_theta," in sentence


def test_of_one_set_of_rotary_parameters_for_each_kind_of_layer_full_attention_counts():
    target = Gemma3TextConfig()
    assert derived(target).rope == {"rope_type": "default", "rope_theta": 1e6}
    assert len(compromises(target, {})) == 1


def test_rotary_positions_that_are_chosen_need_no_warning():
    target, linear = Gemma3TextConfig(), {"rope_type": "linear", "factor": 8.0}
    assert derived(target, rope_theta=5.0).rope == {"rope_type": "default", "rope_theta": 5.0}
    assert derived(target, rope_scaling=linear).rope == linear | {"rope_theta": 1e6}
    for chosen in ({"rope_theta": 5.0}, {"rope_scaling": linear}):
        assert compromises(target, chosen) == []
    # a theta alone leaves the target's scaling
    assert derived(LLAMA_31_8B, rope_theta=5.0).rope == LLAMA3_ROPE | {"rope_theta": 5.0}
    assert derived(LLAMA_31_8B, rope_scaling={"rope_type": "default"}).rope == {
        "rope_type": "default",
        "rope_theta": 500000.0,
    }


def test_positions_of_pictures_stay_with_a_target_that_has_them():
    mrope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [1, 1, 2]}
    assert derived(LlamaConfig(rope_parameters=mrope)).rope == mrope
    sections = {"rope_type": "default", "mrope_section": [1, 1, 2]}
    assert derived(LlamaConfig(rope_parameters=mrope), rope_scaling=sections).rope == mrope
    with pytest.raises(UserError, match="has an mrope_section, but the target's positions"):
        derived(LLAMA_31_8B, rope_scaling=sections)


@pytest.mark.parametrize(
    ("target", "heads"),
    [
        (Glm4MoeConfig(hidden_size=5120, num_attention_heads=96, num_key_value_heads=8), (80, 8)),
        (LlamaConfig(hidden_size=64, num_attention_heads=16, num_key_value_heads=16), (16, 16)),
        (Qwen3Config(hidden_size=5120, num_attention_heads=24, num_key_value_heads=4), (20, 4)),
        (Qwen3Config(hidden_size=2048, num_attention_heads=20, num_key_value_heads=20), (16, 16)),
    ],
)
def test_heads_that_a_llama_cannot_have_become_the_most_that_it_can(target, heads):
    draft = derived(target)
    assert (draft.num_attention_heads, draft.num_key_value_heads) == heads
    LlamaConfig(hidden_size=draft.hidden_size, num_attention_heads=heads[0])  # it would raise
    changed = heads[0] != target.num_attention_heads
    said = [sentence for sentence in compromises(target, {}) if "draft.num_att" in sentence]
    assert len(said) == changed


def test_heads_of_several_widths_become_those_of_the_most_layers():
    target = Gemma4TextConfig()
    assert derived(target).head_dim == 256
    assert "heads are not of one width; the draft's are 256 wide" in compromises(target, {})[0]
    assert derived(target, head_dim=128).head_dim == 128


def test_a_target_without_attention_is_refused_until_the_heads_are_said():
    target = MambaConfig(hidden_size=2048, max_position_embeddings=4096)
    with pytest.raises(UserError, match=r"draft\.num_attention_heads: the target \(mamba\) has no"):
        derived(target)
    draft = derived(target, num_attention_heads=16)
    assert (draft.num_attention_heads, draft.num_key_value_heads, draft.head_dim) == (16, 16, 128)


def test_a_context_and_norms_of_its_own():
    draft = derived(LLAMA_31_8B, max_position_embeddings=4096, rms_norm_eps=1e-4)
    assert (draft.max_position_embeddings, draft.rms_norm_eps) == (4096, 1e-4)
    (sentence,) = compromises(LLAMA_31_8B, {"max_position_embeddings": 4096})
    assert "SGLang serves it with --context-length 4096 or less only" in sentence


def test_qwen3_next_has_a_draft_in_plain_positions():
    draft = derived(Qwen3NextConfig())
    assert (draft.head_dim, draft.rope["rope_type"]) == (256, "default")
