"""The states of the Hugging Face engine against those that transformers itself returns."""

from __future__ import annotations

import pytest
import torch
from models import KINDS, LAYERS, VOCAB, build_model
from transformers import AutoModelForCausalLM, DynamicCache

from eagle3.errors import UserError
from eagle3.target.hf import HFTarget
from eagle3.target.layers import aux_layers

IDS = torch.randint(3, VOCAB, (2, 17), generator=torch.Generator().manual_seed(0))


def engine_of(directory):
    return HFTarget.load(directory, aux_layers(None, LAYERS), "float32")


@pytest.mark.parametrize("kind", KINDS)
def test_aux_and_last_are_the_hidden_states_that_the_convention_names(targets, kind):
    aux, last = engine_of(targets[kind]).states(IDS)
    plain = AutoModelForCausalLM.from_pretrained(targets[kind], dtype=torch.float32).eval()
    with torch.inference_mode():
        out = plain(input_ids=IDS, output_hidden_states=True)
        logits = plain.lm_head(last)
    n, states = LAYERS, out.hidden_states
    expected = torch.cat([states[2], states[n // 2], states[n - 3]], dim=-1)
    assert torch.equal(aux, expected)
    torch.testing.assert_close(logits, out.logits, rtol=1e-5, atol=1e-5)
    assert torch.equal(last, states[-1])


@pytest.mark.parametrize("kind", KINDS)
def test_padding_on_the_right_changes_no_real_position(targets, kind):
    engine = engine_of(targets[kind])
    padded = IDS.clone()
    padded[1, 9:] = 0
    together, alone = engine.states(padded), engine.states(IDS[1:, :9])
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a[1:, :9], b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_going_on_from_a_cache_equals_one_pass(targets, kind):
    engine, cache = engine_of(targets[kind]), DynamicCache()
    pieces = [engine.states(IDS[:1, a:b], cache) for a, b in ((0, 6), (6, 7), (7, 12))]
    cache.crop(9)  # three tokens are taken back, as after a rejected draft
    pieces.append(engine.states(IDS[:1, 9:], cache))
    whole = engine.states(IDS[:1])
    for i, expected in enumerate(whole):
        found = torch.cat([piece[i] for piece in pieces], dim=1)
        kept = torch.cat([found[:, :9], found[:, 12:]], dim=1)
        torch.testing.assert_close(kept, expected, rtol=1e-4, atol=1e-5)


def test_the_body_alone_runs(targets):
    """The head is never applied: no tensor as wide as the vocabulary is made."""
    engine, seen = engine_of(targets["llama"]), []
    engine.model.lm_head.register_forward_hook(lambda *_: seen.append(1))
    engine.states(IDS)
    assert not seen


def test_weights_that_are_no_safetensors_are_refused(tmp_path):
    build_model("llama", num_hidden_layers=1).config.save_pretrained(tmp_path)
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(UserError, match=r"target\.model: cannot load"):
        HFTarget.load(tmp_path, (0,))
