"""The final norm of a target, alone: it makes the target's state of the one before it."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
)

from eagle3.engines.hf import HFTarget
from eagle3.errors import UserError
from eagle3.target_model.final_norm import load_final_norm
from tests.builders.models import COMMON, KINDS, save_model, save_wrapper

KEY = "model.norm.weight"
SMALL = {key: COMMON[key] for key in ("vocab_size", "hidden_size", "intermediate_size")} | {
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
# one plus the gain; a norm that subtracts the mean
OTHERS = {
    "gemma2": lambda: Gemma2ForCausalLM(Gemma2Config(**SMALL, head_dim=8)),
    "cohere": lambda: CohereForCausalLM(CohereConfig(**SMALL)),
}


def check(folder, model, key):
    """The norm in `folder` against the module of the whole model, on random states."""
    states = torch.randn(5, model.get_decoder().config.hidden_size)
    with torch.no_grad():
        expected = model.get_decoder().norm(states)
        assert torch.equal(load_final_norm(folder, key, torch.float32)(states), expected)
    assert not torch.allclose(states, expected)


@pytest.mark.parametrize("kind", ["llama", "qwen3", "qwen3_moe"])
def test_it_is_the_models_own(targets, kind):
    check(targets[kind], AutoModelForCausalLM.from_pretrained(targets[kind]).eval(), KEY)


@pytest.mark.parametrize("kind", OTHERS)
def test_it_computes_as_the_class_of_the_target_does(tmp_path, kind):
    torch.manual_seed(0)
    model = OTHERS[kind]().eval()
    with torch.no_grad():
        model.model.norm.weight.uniform_(0.5, 1.5)
    model.save_pretrained(tmp_path)
    check(tmp_path, model, KEY)


@pytest.mark.parametrize("kind", [*KINDS, "gemma3", "llava"])
def test_a_state_before_it_becomes_the_one_that_the_engine_returns(tmp_path, kind):
    save = save_model if kind in KINDS else save_wrapper
    folder = save(tmp_path / kind, kind)
    target = HFTarget.load(folder, (1, 2, 3), "bfloat16")
    before = []
    target.body.norm.register_forward_pre_hook(lambda _, inputs: before.append(inputs[0][0]))
    _, last = target.flat_states([torch.arange(3, 20)])
    assert torch.equal(load_final_norm(folder, KEY, target.dtype)(before[0]), last)


def test_the_text_part_of_a_larger_model_has_one_too(tmp_path):
    folder = save_wrapper(tmp_path / "target", "llava")
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    check(folder, model, "language_model.model.norm.weight")


def test_a_key_of_no_norm_is_one_sentence(targets):
    with pytest.raises(UserError, match=r"target\.final_norm_key is 'model\.ln_f\.weight', which"):
        load_final_norm(targets["llama"], "model.ln_f.weight", torch.float32)
    inside = "model.layers.0.input_layernorm.weight"
    with pytest.raises(UserError, match=r"but a llama has no norm 'input_layernorm' behind its"):
        load_final_norm(targets["llama"], inside, torch.float32)
