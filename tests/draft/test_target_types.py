"""Every causal model type of transformers: a draft, or one sentence."""

from __future__ import annotations

import pytest
from transformers import AutoConfig

from eagle3.target_model.cost import target_flops_per_token
from tests.builders.target_types import Answer, answer, causal_types

# what people serve, all with rotary positions or heads that a Llama cannot have
WANTED = (
    *("qwen3_next", "qwen3_5", "qwen3_5_moe", "gemma3", "gemma4", "glm4", "glm4_moe"),
    *("deepseek_v4", "kimi_linear", "nemotron_h", "olmo3", "phi", "phi3", "seed_oss", "minimax_m2"),
    *("gpt_oss", "llama4", "mimo_v2_flash", "stablelm", "falcon_h1", "bamba", "jamba"),
)
# of decoders: they have no attention, no one context, or no model of their own
NO_DRAFT = {
    *("mamba", "mamba2", "falcon_mamba", "recurrent_gemma", "rwkv", "xlstm"),
    *("bloom", "mpt", "cpmant", "xlnet", "blt", "hrm_text"),
    *("gemma3n", "gemma3n_text"),
    *("gemma4_assistant", "gemma4_unified_assistant", "musicgen", "musicgen_melody"),
}


@pytest.fixture(scope="module")
def answers() -> dict[str, Answer]:
    return {kind: answer(kind) for kind in causal_types()}


@pytest.mark.parametrize("kind", causal_types())
def test_a_draft_is_derived_or_one_sentence_says_why_not(
    answers: dict[str, Answer], kind: str
) -> None:
    result = answers[kind]
    for sentence in (*result.notes, result.refusal or "x"):
        assert "\n" not in sentence and len(sentence) < 400
    if result.refusal is not None and "of an encoder" not in result.refusal:
        assert kind in NO_DRAFT, result.refusal
        assert result.refusal.startswith(("target.model: ", "draft.num_attention_heads: "))


def test_the_plan_has_an_estimate_of_each(answers: dict[str, Answer]) -> None:
    for kind, result in answers.items():
        if result.refusal is None:
            text = AutoConfig.for_model(kind).get_text_config(decoder=True)
            assert 0 < target_flops_per_token(text) < 1e13, kind


def test_most_have_one(answers: dict[str, Answer]) -> None:
    derived = {kind for kind, result in answers.items() if result.refusal is None}
    assert set(WANTED) <= derived
    assert len(derived) >= 125
    print(f"{len(derived)} of {len(answers)} model types have a draft")
