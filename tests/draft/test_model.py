"""The draft's layer against transformers' own parts, and what its first weights are."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import (
    LlamaDecoderLayer,
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
)

from eagle3.draft.model import Eagle3Draft, RMSNorm, initialise
from eagle3.export.exported import expected_shapes
from tests.objective.cases import tiny_draft

LENGTH = 9


def run_whole(draft, embedding, hidden):
    """All rows of one document, causally: the draft as its pieces are meant to be put together."""
    positions = torch.arange(len(hidden))
    x = draft.layer_input(embedding, hidden)
    q, (k, v) = draft.queries(x, positions), draft.keys_values(x, positions)
    attended = nn.functional.scaled_dot_product_attention(
        q.transpose(0, 1), k.transpose(0, 1), v.transpose(0, 1), is_causal=True, enable_gqa=True
    )
    return draft.finish(hidden, attended.transpose(0, 1))


def llama_layer(draft):
    """transformers' decoder layer with the draft's weights; its attention reads 2H."""
    c = draft.config
    config = LlamaConfig(
        hidden_size=c.hidden_size,
        intermediate_size=c.intermediate_size,
        num_attention_heads=c.num_attention_heads,
        num_key_value_heads=c.num_key_value_heads,
        head_dim=c.head_dim,
        rms_norm_eps=c.rms_norm_eps,
        rope_parameters=c.rope,
        attn_implementation="eager",
    )
    layer = LlamaDecoderLayer(config, 0)
    for name in ("q_proj", "k_proj", "v_proj"):
        old = getattr(layer.self_attn, name)
        setattr(layer.self_attn, name, nn.Linear(2 * c.hidden_size, old.out_features, bias=False))
    known = set(layer.state_dict())
    weights = {
        name.removeprefix("midlayer."): value
        for name, value in draft.state_dict().items()
        if name.startswith("midlayer.")
    }
    assert set(weights) == known | {"hidden_norm.weight"}
    layer.load_state_dict({name: weights[name] for name in known})
    norm = LlamaRMSNorm(c.hidden_size, c.rms_norm_eps)
    norm.weight.data = weights["hidden_norm.weight"]
    return layer.double(), norm.double(), LlamaRotaryEmbedding(config)


def test_the_layer_is_a_llama_layer_that_reads_embedding_and_hidden_side_by_side():
    draft = tiny_draft()
    generator = torch.Generator().manual_seed(3)
    size = draft.config.hidden_size
    embedding, hidden = torch.randn(2, LENGTH, size, generator=generator, dtype=torch.float64)
    layer, hidden_norm, rotary = llama_layer(draft)
    x = torch.cat([layer.input_layernorm(embedding), hidden_norm(hidden)], dim=-1)[None]
    mask = torch.full((LENGTH, LENGTH), float("-inf"), dtype=torch.float64).triu(1)[None, None]
    places = rotary(x, torch.arange(LENGTH)[None])
    attended, _ = layer.self_attn(x, position_embeddings=places, attention_mask=mask)
    h = hidden + attended[0]  # the residual is the hidden state as it came, un-normed
    expected = h + layer.mlp(layer.post_attention_layernorm(h))
    torch.testing.assert_close(run_whole(draft, embedding, hidden), expected, rtol=1e-5, atol=1e-5)


def test_the_embedding_comes_first():
    draft = tiny_draft()
    size = draft.config.hidden_size
    rows = torch.randn(2, 3, size, dtype=torch.float64)
    x = draft.layer_input(rows[0], rows[1])
    layer = draft.midlayer
    assert torch.equal(x[:, :size], layer.input_layernorm(rows[0]))
    assert torch.equal(x[:, size:], layer.hidden_norm(rows[1]))


def test_a_silent_layer_hands_on_the_hidden_state_unchanged():
    draft = tiny_draft()
    with torch.no_grad():
        draft.midlayer.self_attn.o_proj.weight.zero_()
        draft.midlayer.mlp.down_proj.weight.zero_()
    embedding, hidden = torch.randn(2, 4, draft.config.hidden_size, dtype=torch.float64)
    assert torch.equal(run_whole(draft, embedding, hidden), hidden)


def test_the_norm_is_llamas():
    ours, theirs = RMSNorm(16, 1e-5), LlamaRMSNorm(16, 1e-5)
    ours.weight.data = theirs.weight.data = torch.rand(16)
    x = torch.randn(5, 16) * 30
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-6, atol=1e-6)
    assert ours(x.bfloat16()).dtype == torch.bfloat16


def test_names_and_shapes_are_those_of_the_export():
    draft = tiny_draft()
    wanted = expected_shapes(draft.config)
    assert {n: tuple(p.shape) for n, p in draft.state_dict().items()} == {
        n: s for n, s in wanted.items() if n not in ("d2t", "t2d")
    }


def test_first_weights_depend_on_the_seed_alone():
    config = tiny_draft().config
    drafts = [Eagle3Draft(config) for _ in range(3)]
    for draft, seed in zip(drafts, (1, 1, 2), strict=True):
        torch.manual_seed(id(draft) % 1000)  # whatever the global generator says
        initialise(draft, seed)
    one, same, other = (draft.state_dict() for draft in drafts)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["fc.weight"], other["fc.weight"])
    assert all((one[name] == 1).all() for name in one if "norm" in name)


def test_head_and_norm_start_as_the_targets():
    draft = tiny_draft()
    config = draft.config
    rows, gain = torch.randn(config.draft_vocab_size, config.hidden_size), torch.rand(8)
    initialise(draft, 0, rows, gain)
    assert torch.equal(draft.lm_head.weight, rows.double())
    assert torch.equal(draft.norm.weight, gain.double())


@pytest.mark.parametrize("cast", [torch.bfloat16, torch.float16])
def test_a_cast_of_the_module_does_not_round_its_frequencies(cast):
    config = replace(tiny_draft().config, max_position_embeddings=4096)
    draft = Eagle3Draft(config)
    before = draft.inv_freq.clone()
    draft.to(cast)
    assert draft.inv_freq.dtype == torch.float32 and torch.equal(draft.inv_freq, before)
