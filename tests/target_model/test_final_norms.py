"""Whether a target's final norm multiplies by its gain or by one plus it, for every model type: the
list of names against the models' own modules."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from eagle3.target_model.reader import GAIN_MINUS_ONE
from tests.builders.target_types import answer, causal_types

# no final norm with a gain, or none that stands alone
WITHOUT = {"nanochat", "olmo", "openai-gpt", "qwen4_exp", "qwen4_exp_text", "phi4_multimodal"}
# their default configurations build no model of text alone
NOT_BUILT = {"dbrx", "dots1", "emu3", "mllama", "hrm_text", "cohere_compass_text", "lfm2_moe"}
KINDS = [
    kind
    for kind in causal_types()
    if kind not in WITHOUT | NOT_BUILT and answer(kind).refusal is None
]


def text_config(kind: str, cut: bool) -> Any:
    text = AutoConfig.for_model(kind).get_text_config(decoder=True)
    if getattr(text, "num_key_value_heads", 0) is None:
        text.num_key_value_heads = text.num_attention_heads
    if text.to_dict().get("head_dim", 0) is None:
        text.head_dim = text.hidden_size // text.num_attention_heads
    if cut:
        text.num_hidden_layers = 2
        for name in ("layer_types", "mlp_layer_types"):
            if isinstance(getattr(text, name, None), list):
                setattr(text, name, getattr(text, name)[:2])
    return text


def final_norm(kind: str) -> tuple[str, torch.nn.Module]:
    """Model type of the text part, and its norm behind the layers, without memory."""
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            text = text_config(kind, cut=True)
            model = AutoModelForCausalLM.from_config(text)
        except (AttributeError, ValueError, TypeError):  # its layers are not cut like this
            text = text_config(kind, cut=False)
            model = AutoModelForCausalLM.from_config(text)
    width = (text.hidden_size,)
    result = [
        module
        for name, module in model.named_modules()
        if not any(letter.isdigit() for letter in name)
        and any(gain.shape == width for gain in module.parameters(recurse=False))
    ]
    return text.model_type, result[-1]


@pytest.mark.parametrize("kind", KINDS)
def test_a_gain_of_zero_leaves_something_only_of_norms_that_add_one(kind: str) -> None:
    model_type, module = final_norm(kind)
    norm = copy.deepcopy(module).to_empty(device="cpu")
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.zero_()
        left = norm(torch.randn(2, parameter.shape[0])).abs().max()
    assert bool(left > 0) == (model_type in GAIN_MINUS_ONE)
