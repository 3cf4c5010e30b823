"""Single tensors of a target, and what its head does to states."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import pytest
import torch
from transformers import CohereConfig, Gemma2Config, GraniteConfig, LlamaConfig

from eagle3.errors import UserError
from eagle3.target_model.config import load_config
from eagle3.target_model.reader import Head, read_final_norm, read_head
from eagle3.target_model.weights import TargetWeights
from tests.builders.models import HIDDEN, VOCAB, build_model

KEYS = ("lm_head.weight", "model.embed_tokens.weight")


@pytest.mark.parametrize("name", ["llama", "sharded"])
def test_tensors_are_read_from_one_file_or_many(targets, name):
    weights = TargetWeights(targets[name])
    assert (len(set(weights.file_of.values())) > 1) == (name == "sharded")
    for key, value in build_model("llama").state_dict().items():
        assert torch.equal(weights.read(key, "x"), value)


def test_only_the_file_that_holds_a_tensor_is_opened(targets, tmp_path):
    shutil.copytree(targets["sharded"], tmp_path, dirs_exist_ok=True)
    weights = TargetWeights(tmp_path)
    holder = weights.file_of[KEYS[0]]
    for path in tmp_path.glob("*.safetensors"):
        if path.name != holder:
            path.unlink()
    assert weights.read(KEYS[0], "lm_head_key").shape == (VOCAB, HIDDEN)
    assert weights.file_of[KEYS[1]] != holder
    with pytest.raises(UserError, match="no such file"):
        weights.read(KEYS[1], "embedding_key")


def test_the_head_of_a_tied_model_is_its_embedding(targets):
    weights, config = TargetWeights(targets["tied"]), load_config(targets["tied"])
    assert KEYS[0] not in weights.file_of
    head = read_head(weights, config, *KEYS)
    assert torch.equal(head.weight, weights.read(KEYS[1], "embedding_key"))


def test_an_untied_model_without_a_head_is_refused(targets):
    with pytest.raises(UserError, match=r"target\.lm_head_key is 'lm_head\.weight'"):
        read_head(TargetWeights(targets["tied"]), load_config(targets["llama"]), *KEYS)


def test_a_wrong_key_names_a_close_one(targets):
    weights = TargetWeights(targets["llama"])
    with pytest.raises(UserError, match=r"embedding_key.*did you mean model\.embed_tokens\.weight"):
        weights.read("language_model.model.embed_tokens.weight", "embedding_key")


def test_a_directory_without_safetensors_is_refused(tmp_path):
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(UserError, match="only safetensors"):
        TargetWeights(tmp_path)


class Weights(TargetWeights):
    """Tensors that are in no file."""

    def __init__(self, tensors):
        self.file_of = dict.fromkeys(tensors, "none")
        self.tensors = tensors

    def read(self, name, _setting):
        return self.tensors[name]


def head_of(config, bias=None):
    generator = torch.Generator().manual_seed(0)
    tensors = {"lm_head.weight": torch.randn(VOCAB, HIDDEN, generator=generator)}
    if bias is not None:
        tensors["lm_head.bias"] = bias
    return read_head(Weights(tensors), config, *KEYS)


def test_soft_cap_scale_and_bias_do_what_the_models_do():
    states = torch.randn(5, HIDDEN, generator=torch.Generator().manual_seed(1))
    plain = head_of(LlamaConfig())
    raw = states @ plain.weight.T
    torch.testing.assert_close(plain.logits(states), raw)
    capped = head_of(Gemma2Config(final_logit_softcapping=3.0)).logits(states)
    torch.testing.assert_close(capped, 3.0 * torch.tanh(raw / 3.0))
    torch.testing.assert_close(head_of(CohereConfig(logit_scale=0.5)).logits(states), raw * 0.5)
    divided = head_of(GraniteConfig(logits_scaling=8.0)).logits(states)
    torch.testing.assert_close(divided, raw / 8)
    shifted = head_of(LlamaConfig(), torch.arange(VOCAB).float()).logits(states)
    torch.testing.assert_close(shifted, raw + torch.arange(VOCAB))


@pytest.mark.parametrize("key", ["logit_zoom", "lm_head_boost"])
def test_an_unknown_rule_on_logits_is_refused_by_name(key):
    with pytest.raises(UserError, match=f"{key} = 2.0"):
        head_of(LlamaConfig(**{key: 2.0}))
    head_of(LlamaConfig(**{key: None}))  # a rule that is off is no rule


def test_rows_of_a_head_are_its_logits_at_those_tokens():
    generator = torch.Generator().manual_seed(2)
    head = Head(torch.randn(9, 4, generator=generator), torch.randn(9, generator=generator), 0.5, 2)
    states, ids = torch.randn(3, 4, generator=generator), torch.tensor([7, 0, 3])
    torch.testing.assert_close(head.rows(ids).logits(states), head.logits(states)[:, ids])
    torch.testing.assert_close(head.part(2, 7).logits(states), head.logits(states)[:, 2:7])


def test_the_final_norm_is_given_as_a_plain_gain(targets):
    weights, config = TargetWeights(targets["llama"]), load_config(targets["llama"])
    gain = read_final_norm(weights, config, "model.norm.weight")
    assert torch.equal(gain, weights.read("model.norm.weight", "x"))
    stored = Weights({"model.norm.weight": torch.zeros(4, dtype=torch.bfloat16)})
    for kind, expected in (("gemma2", 1.0), ("gemma3n_text", 0.0), ("qwen3_next", 1.0)):
        result = read_final_norm(stored, SimpleNamespace(model_type=kind), "model.norm.weight")
        assert result.dtype == torch.float32 and (result == expected).all()
