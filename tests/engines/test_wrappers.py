"""Multimodal targets: the language model inside is found, run and read."""

from __future__ import annotations

import pytest
import torch
import yaml
from transformers import AutoModelForImageTextToText

from eagle3.checks import check_target
from eagle3.config.configuration import Config
from eagle3.engines.hf import HFTarget
from eagle3.errors import UserError
from eagle3.target_model.config import load_config
from eagle3.target_model.layers import aux_layers
from eagle3.target_model.reader import read_final_norm, read_head
from eagle3.target_model.weights import TargetWeights
from tests.builders.models import HIDDEN, LAYERS, VOCAB, save_tokenizer, save_wrapper
from tests.builders.shards import TRAIN, captured, changed, train_draft, training_set
from tests.rules.test_presets import SIZES
from tests.rules.workflow import snakemake

IDS = torch.randint(3, VOCAB, (2, 17), generator=torch.Generator().manual_seed(0))
# embedding_key, lm_head_key, final_norm_key of target, as the files name them
KEYS = {
    "gemma3": (
        "language_model.model.embed_tokens.weight",
        "lm_head.weight",
        "language_model.model.norm.weight",
    ),
    "llava": (
        "language_model.model.embed_tokens.weight",
        "language_model.lm_head.weight",
        "language_model.model.norm.weight",
    ),
    "qwen2_5_vl": ("model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"),
    "qwen3_vl": (
        "model.language_model.embed_tokens.weight",
        "lm_head.weight",
        "model.language_model.norm.weight",
    ),
    "mistral3": (
        "language_model.model.embed_tokens.weight",
        "language_model.lm_head.weight",
        "language_model.model.norm.weight",
    ),
    "internvl": (
        "language_model.model.embed_tokens.weight",
        "language_model.lm_head.weight",
        "language_model.model.norm.weight",
    ),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    root = tmp_path_factory.mktemp("wrappers")
    return {kind: save_wrapper(root / kind, kind) for kind in KEYS}


@pytest.mark.parametrize("kind", KEYS)
def test_states_and_head_are_those_of_the_whole_model(saved, kind):
    directory, (embedding_key, head_key, norm_key) = saved[kind], KEYS[kind]
    whole = AutoModelForImageTextToText.from_pretrained(directory, dtype=torch.float32).eval()
    with torch.inference_mode():
        out = whole(input_ids=IDS, output_hidden_states=True)
    config, weights = load_config(directory), TargetWeights(directory)
    layers = aux_layers(None, config.num_hidden_layers)
    engine = HFTarget.load(directory, layers, "float32")
    aux, last = engine.states(IDS)
    assert torch.equal(aux, torch.cat([out.hidden_states[i + 1] for i in layers], dim=-1))
    assert torch.equal(last, out.hidden_states[-1])
    head = read_head(weights, config, head_key, embedding_key)
    torch.testing.assert_close(head.logits(last), out.logits, rtol=1e-5, atol=1e-5)
    embedding = weights.read(embedding_key, "embedding_key")
    assert torch.equal(embedding, whole.get_input_embeddings().weight)
    assert read_final_norm(weights, config, norm_key).shape == (HIDDEN,)


def test_a_wrapper_that_ties_its_embeddings_needs_no_head(tmp_path):
    """The text part of Qwen2.5-VL says nothing about tying; the wrapper does."""
    directory = save_wrapper(tmp_path / "tied", "qwen2_5_vl", tie_word_embeddings=True)
    weights, config = TargetWeights(directory), load_config(directory)
    embedding_key, head_key, _ = KEYS["qwen2_5_vl"]
    assert head_key not in weights.file_of
    head = read_head(weights, config, head_key, embedding_key)
    assert torch.equal(head.weight, weights.read(embedding_key, "embedding_key"))


@pytest.mark.parametrize("kind", KEYS)
def test_the_names_of_a_plain_model_stand_for_those_of_the_wrapper(saved, kind):
    weights = TargetWeights(saved[kind])
    plain = ("model.embed_tokens.weight", "lm_head.weight", "model.norm.weight")
    for name, expected in zip(plain, KEYS[kind], strict=True):
        assert weights.name_of(name) == (expected if expected in weights.file_of else None)


def test_a_name_that_several_tensors_end_with_is_the_one_beside_the_embedding(saved):
    weights = TargetWeights(saved["llava"])
    weights.file_of["vision_tower.norm.weight"] = "model.safetensors"  # as in Qwen3-VL
    assert weights.name_of("model.norm.weight") == "language_model.model.norm.weight"
    weights.file_of["talker.embed_tokens.weight"] = "model.safetensors"
    assert weights.name_of("model.norm.weight") is None
    with pytest.raises(UserError, match=r"did you mean .*talker\.embed_tokens\.weight"):
        weights.read("model.embed_tokens.weight", "embedding_key")


def test_eight_layers_are_counted_in_the_text_part(saved):
    assert all(load_config(path).num_hidden_layers == LAYERS for path in saved.values())


@pytest.mark.parametrize("kind", KEYS)
def test_no_key_is_needed_to_plan_capture_and_train(saved, tmp_path, kind):
    """What `snakemake -n` asks, a capture that is checked against a plain pass, and two steps."""
    save_tokenizer(saved[kind])
    config = Config.of(
        {
            "run": kind,
            "tokens": {"max_length": 64},
            "vocab": {"draft_vocab_size": 48},
            "evaluation": {"max_new_tokens": 32},
        }
    ).to_dict()
    assert check_target(config, saved[kind]) == (kind == "gemma3")
    train = changed(TRAIN, epochs=1, epochs_per_stage=1)
    made = training_set(tmp_path, saved[kind], train, documents=8, draft_vocab=48)
    draft, _ = train_draft(made, tmp_path)
    assert sum(stage["steps"] for stage in made.schedule["stages"]) == 2
    assert all(weight.isfinite().all() for weight in draft.parameters())
    checked = captured(
        tmp_path / "checked.safetensors", saved[kind], made.tokens[0], self_check=True
    )
    assert checked.layout.documents == 4


@pytest.mark.dag
def test_a_wrapper_is_planned_by_snakemake_without_a_key(saved, tmp_path):
    save_tokenizer(saved["qwen3_vl"])
    overlay = tmp_path / "overlay.yaml"
    change = SIZES | {"run": "wrapper", "target": {"model": str(saved["qwen3_vl"])}}
    change |= {"vocab": {"draft_vocab_size": 48}}
    overlay.write_text(yaml.safe_dump(change))
    outcome = snakemake(tmp_path, "-n", "--quiet", "rules", overlay=overlay)
    assert outcome.code == 0, outcome.text[-3000:]
