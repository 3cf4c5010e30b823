"""Rotary parameters that a draft can have."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from eagle3.draft.rope_parameters import attention_factor, chosen, meaning, of_target
from eagle3.errors import UserError

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256}


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"attention_factor": 1.5},
        {"mscale": 1.0, "mscale_all_dim": 1.0},
        {"mscale": 0.7, "mscale_all_dim": 1.3},
        {"mscale": 0.7},
        {"factor": 1.0},
    ],
)
def test_the_factor_of_yarn_is_that_of_transformers(more: dict[str, Any]) -> None:
    rope = {**YARN, "rope_theta": 1e4, **more}
    library = LlamaConfig(
        hidden_size=64, num_attention_heads=4, max_position_embeddings=1024, rope_parameters=rope
    )
    assert attention_factor(rope) == pytest.approx(LlamaRotaryEmbedding(library).attention_scaling)
    assert attention_factor({**rope, "rope_type": "linear"}) == 1.0


def test_older_spellings_and_positions_of_pictures_are_plain() -> None:
    assert chosen(5.0, {"type": "linear", "factor": 2.0, "x": None}) == (
        5.0,
        {"rope_type": "linear", "factor": 2.0},
    )
    assert chosen(None, {"rope_theta": 7}) == (7.0, {"rope_type": "default"})
    assert chosen(None, {"type": "mrope", "mrope_section": [1, 1, 2]}) == (
        None,
        {"rope_type": "default", "mrope_section": [1, 1, 2]},
    )


@pytest.mark.parametrize(
    ("scaling", "sentence"),
    [
        ({"rope_type": "dynamic", "factor": 2.0}, "rope_type 'dynamic', which no draft here"),
        ({"rope_type": "default", "partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"rope_type": "linear"}, "of type linear lacks factor"),
        ({"rope_type": "linear", "factor": 0.5}, "a factor of 0.5; must be at least 1"),
        ({"rope_type": "linear", "factor": "2"}, "factor = '2'; must be a number above 0"),
        ({"rope_type": "linear", "factor": True}, "factor = True; must be a number above 0"),
        ({"rope_type": "linear", "factor": 2.0, "beta_fast": 1}, "beta_fast, which type linear"),
        ({**YARN, "truncate": 1}, "truncate = 1; must be true or false"),
        ({"rope_type": "llama3", "factor": 8.0}, "lacks low_freq_factor and high_freq_factor"),
        ({"rope_type": "linear", "type": "yarn", "factor": 2.0}, "two types, linear and yarn"),
        ({"rope_theta": 9.0}, "draft.rope_theta is 5, draft.rope_scaling says 9"),
    ],
)
def test_what_a_draft_cannot_have_is_one_sentence(scaling: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        chosen(5.0, scaling)


FULL = {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6}


@pytest.mark.parametrize(
    ("given", "theta", "reason"),
    [
        (FULL, 1e6, None),
        ({"rope_type": "dynamic", "rope_theta": 3e4, "factor": 2.0}, 3e4, "of type 'dynamic'"),
        ({"rope_theta": 3e4, "partial_rotary_factor": 0.25}, 3e4, "rotate 25% of a head"),
        ({"sliding_attention": {"rope_theta": 1e4}, "full_attention": FULL}, 1e6, "of 2 kinds"),
        ({"main": {"rope_theta": 2e4}, "other": FULL}, 2e4, "of 2 kinds"),
        ({"rope_type": "default", "rope_theta": None}, 1e4, "has no rotary positions"),
        (None, 1e4, "has no rotary positions"),
    ],
)
def test_what_a_draft_takes_from_its_target(
    given: dict[str, Any] | None, theta: float, reason: str | None
) -> None:
    class Target:
        rope_parameters = given

    result, why = of_target(Target)
    if reason is None:
        assert (result, why) == (given, None)
        return
    assert result == {"rope_type": "default", "rope_theta": theta}
    assert why is not None and reason in why


LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
SPELLINGS: list[dict[str, Any]] = [
    {"rope_type": "default"},
    {"rope_type": "default", "mrope_section": [1, 1, 2]},
    {"rope_type": "linear", "factor": 2},
    {"rope_type": "linear", "factor": 4.0},
    LLAMA3,
    LLAMA3 | {"low_freq_factor": 2.0},
    YARN,
    YARN | {"beta_fast": 32, "beta_slow": 1.0, "truncate": True},
    YARN | {"beta_fast": 16},
    YARN | {"truncate": False},
    YARN | {"attention_factor": 2.0},
    YARN | {"mscale": 1.0, "mscale_all_dim": 1.0},
    YARN | {"attention_factor": 1.0},
    YARN | {"original_max_position_embeddings": 128},
]


@pytest.mark.parametrize("one", range(len(SPELLINGS)))
@pytest.mark.parametrize("theta", [1e4, 1e6])
def test_two_ropes_mean_the_same_if_they_turn_heads_alike(one: int, theta: float) -> None:
    def angles(rope: dict[str, Any]) -> tuple[torch.Tensor, float]:
        library = LlamaRotaryEmbedding(
            LlamaConfig(
                hidden_size=64,
                num_attention_heads=1,
                max_position_embeddings=1024,
                rope_parameters=dict(rope),
            )
        )
        return library.inv_freq.data, library.attention_scaling

    rope = SPELLINGS[one] | {"rope_theta": theta}
    for other in SPELLINGS:
        second = other | {"rope_theta": 1e4}
        result, expected = angles(rope), angles(second)
        alike = torch.equal(result[0], expected[0]) and abs(result[1] - expected[1]) < 1e-6
        assert (meaning(rope) == meaning(second)) == alike, (rope, second)
