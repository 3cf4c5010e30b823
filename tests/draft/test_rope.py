"""Our rotation against transformers' own, for every supported type."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from eagle3.draft.config import derive_config
from eagle3.draft.rope import inverse_frequencies, rotate
from eagle3.draft.rope_parameters import ROPE_TYPES

THETA = {"rope_theta": 500000.0}
ROPES = {
    "default": THETA,
    "linear": THETA | {"factor": 4.0},
    "llama3": THETA
    | {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
    "yarn": THETA | {"factor": 4.0, "original_max_position_embeddings": 256},
}
POSITIONS = torch.tensor([0, 1, 2, 63, 64, 500, 1000])


def case(kind):
    target = LlamaConfig(
        hidden_size=64,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=1024,
        rope_parameters={"rope_type": kind} | ROPES[kind],
    )
    generator = torch.Generator().manual_seed(0)
    return target, torch.randn(len(POSITIONS), 4, 16, generator=generator)


def test_every_supported_type_is_compared():
    assert set(ROPES) == set(ROPE_TYPES)


@pytest.mark.parametrize("kind", ROPES)
def test_rotation_equals_that_of_transformers(kind):
    target, x = case(kind)
    cos, sin = LlamaRotaryEmbedding(target)(x, POSITIONS[None])
    expected, _ = apply_rotary_pos_emb(x.transpose(0, 1)[None], x.transpose(0, 1)[None], cos, sin)
    inv_freq, scaling = inverse_frequencies(derive_config(target, {}, 8, (0, 1, 2)))
    result = rotate(x, POSITIONS, inv_freq, scaling)
    torch.testing.assert_close(result, expected[0].transpose(0, 1), rtol=1e-6, atol=1e-6)
    assert (scaling != 1.0) == (kind == "yarn")


@pytest.mark.parametrize("head_dim", [16, 64, 128])
@pytest.mark.parametrize("theta", [10000.0, 500000.0, 1000000])
def test_plain_frequencies_are_the_bits_of_transformers(head_dim, theta):
    target, _ = case("default")
    target.head_dim, target.rope_parameters["rope_theta"] = head_dim, theta
    result, scaling = inverse_frequencies(derive_config(target, {}, 8, (0, 1, 2)))
    assert torch.equal(result, LlamaRotaryEmbedding(target).inv_freq.data) and scaling == 1.0


@pytest.mark.parametrize("kind", ROPES)
def test_scores_depend_on_distance_only(kind):
    """Why the convention of positions matters only in that it is one and the same everywhere."""
    target, x = case(kind)
    inv_freq, scaling = inverse_frequencies(derive_config(target, {}, 8, (0, 1, 2)))
    x = x.double()
    scores = [
        torch.einsum("ahd,bhd->hab", *(rotate(x, POSITIONS + shift, inv_freq, scaling),) * 2)
        for shift in (0, 17)
    ]
    torch.testing.assert_close(scores[0], scores[1], rtol=1e-9, atol=1e-9)


def test_angles_are_exact_in_bfloat16_too():
    """A far position in bfloat16 would lose its angle; only the result is rounded."""
    target, x = case("default")
    inv_freq, scaling = inverse_frequencies(derive_config(target, {}, 8, (0, 1, 2)))
    exact = rotate(x.bfloat16().float(), POSITIONS, inv_freq, scaling)
    assert torch.equal(rotate(x.bfloat16(), POSITIONS, inv_freq, scaling), exact.bfloat16())
