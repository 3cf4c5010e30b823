"""The states of the Hugging Face engine against those that transformers itself returns."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    DynamicCache,
    T5Config,
)

from eagle3.engines.hf import HFTarget
from eagle3.errors import UserError
from eagle3.target_model.layers import aux_layers
from tests.builders.models import KINDS, LAYERS, VOCAB, build_model

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
        result = torch.cat([piece[i] for piece in pieces], dim=1)
        kept = torch.cat([result[:, :9], result[:, 12:]], dim=1)
        torch.testing.assert_close(kept, expected, rtol=1e-4, atol=1e-5)


def test_the_body_alone_is_loaded(targets):
    """No tensor as wide as the vocabulary but the embedding; a tied head is not missed."""
    for name in ("llama", "tied"):
        engine = engine_of(targets[name])
        wide = [n for n, p in engine.body.named_parameters() if VOCAB in p.shape]
        assert wide == ["embed_tokens.weight"]


def documents(*lengths):
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(3, VOCAB, (n,), generator=generator) for n in lengths]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lengths", [(17,), (1, 17, 4, 9), (6, 6, 6), (1,)])
def test_flat_states_are_the_documents_one_after_another(targets, kind, lengths):
    engine, texts = engine_of(targets[kind]), documents(*lengths)
    alone = [engine.states(text[None]) for text in texts]
    for i, result in enumerate(engine.flat_states(texts)):
        expected = torch.cat([states[i][0] for states in alone])
        assert type(result) is torch.Tensor and result.is_contiguous()
        torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)


def test_flat_states_of_one_document_are_the_plain_pass_bit_for_bit(targets):
    engine, texts = engine_of(targets["llama"]), documents(23)
    plain = engine.states(texts[0][None])
    for result, expected in zip(engine.flat_states(texts), plain, strict=True):
        assert torch.equal(result, expected[0])


def test_no_mask_and_no_cache_are_made_for_a_padded_batch(targets):
    engine, seen = engine_of(targets["llama"]), []
    engine.body.layers[0].register_forward_hook(
        lambda _module, _args, given, _output: seen.append(given), with_kwargs=True
    )
    engine.flat_states(documents(5, 9))
    assert [(g["attention_mask"], g["past_key_values"]) for g in seen] == [(None, None)]


def test_half_precision_targets_give_half_precision_states(targets):
    engine = HFTarget.load(targets["llama"], aux_layers(None, LAYERS), "bfloat16")
    aux, last = engine.flat_states(documents(5, 9))
    assert engine.dtype == aux.dtype == last.dtype == torch.bfloat16


def test_weights_that_are_no_safetensors_are_refused(tmp_path):
    build_model("llama", num_hidden_layers=1).config.save_pretrained(tmp_path)
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(UserError, match=r"target\.model: cannot load"):
        HFTarget.load(tmp_path, (0,))


def test_a_model_that_lacks_weights_is_refused(targets, tmp_path):
    """transformers would fill them with random numbers."""
    tensors = load_file(targets["llama"] / "model.safetensors")
    del tensors["model.layers.3.mlp.up_proj.weight"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_bytes((targets["llama"] / "config.json").read_bytes())
    with pytest.raises(UserError, match=r"lacks 1 weights of a LlamaModel, such as layers\.3\.mlp"):
        engine_of(tmp_path)


def test_weights_of_another_shape_or_cut_short_are_refused(targets, tmp_path):
    shutil.copytree(targets["llama"], tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"intermediate_size": 40}))
    with pytest.raises(UserError, match=r"target\.model: cannot load"):
        engine_of(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no header")
    with pytest.raises(UserError, match=r"target\.model: cannot load"):
        engine_of(tmp_path)


def test_models_that_are_no_causal_decoders_are_refused(tmp_path):
    T5Config(d_model=8, num_layers=1).save_pretrained(tmp_path / "t5")
    with pytest.raises(UserError, match=r"is a t5, which is not a causal language model"):
        HFTarget.load(tmp_path / "t5", (0,))


def test_a_body_without_a_list_of_its_layers_is_refused():
    body = build_model("llama").model
    body.layers = torch.nn.ModuleList(body.layers[:3])
    with pytest.raises(UserError, match=r"the LlamaModel has no list of its 8 layers"):
        HFTarget(body, (0,))


REMOTE = """
from transformers import LlamaConfig, LlamaForCausalLM

class OwnConfig(LlamaConfig):
    model_type = "own_llama"

class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
"""


def test_code_beside_the_weights_runs_only_when_trusted(targets, tmp_path):
    shutil.copytree(targets["llama"], tmp_path, dirs_exist_ok=True)
    (tmp_path / "modeling_own.py").write_text(REMOTE)
    config = json.loads((tmp_path / "config.json").read_text())
    names = {
        "AutoConfig": "modeling_own.OwnConfig",
        "AutoModelForCausalLM": "modeling_own.OwnModel",
    }
    changed = config | {"model_type": "own_llama", "auto_map": names}
    (tmp_path / "config.json").write_text(json.dumps(changed))
    layers = aux_layers(None, LAYERS)
    with pytest.raises(UserError, match=r"target\.model"):
        HFTarget.load(tmp_path, layers)
    own = HFTarget.load(tmp_path, layers, "float32", trust_remote_code=True).states(IDS)
    plain = engine_of(targets["llama"]).states(IDS)
    assert all(map(torch.equal, own, plain))
