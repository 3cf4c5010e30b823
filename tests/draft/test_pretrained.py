"""Warm start: weights by name, head rows by token, and everything that does not fit refused."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from eagle3.draft.model import Eagle3Draft
from eagle3.draft.pretrained import warm_start
from eagle3.errors import UserError
from tests.objective.cases import tiny_draft

VOCAB, WIDTH = 23, 15
LAYERS = 6  # of a target too small for usual layers
LINEAR = {"rope_type": "linear", "factor": 2.0}
OLD = torch.tensor([0, 2, 3, 7, 8, 9, 12, 13, 14, 15, 16, 19, 22])  # its draft vocabulary
NEW = torch.tensor([1, 2, 4, 5, 7, 9, 10, 11, 12, 17, 18, 19, 20, 21, 22])


def existing(folder, config=None, tensors=None, ids=OLD, spell=lambda name: name, **switches):
    """A folder with a draft of vocabulary `ids`; its weights."""
    old = tiny_draft(draft_vocab=len(ids), seed=5, **switches).float()
    folder.mkdir(parents=True, exist_ok=True)
    result = {spell(name): weight.detach().clone() for name, weight in old.named_parameters()}
    result |= {"d2t": ids - torch.arange(len(ids)), "embed_tokens.weight": torch.zeros(VOCAB, 8)}
    result |= tensors or {}
    save_file({k: v for k, v in result.items() if v is not None}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"} | (config or {})))
    return dict(old.named_parameters())


def assert_taken(draft, before, old):
    for name, weight in draft.named_parameters():
        if name != "lm_head.weight":
            assert torch.equal(weight, old[name].to(weight)), name
            continue
        for row, token in zip(range(WIDTH), NEW.tolist(), strict=True):
            known = (token == OLD).nonzero().flatten()
            source = old[name][known[0]] if len(known) else before[name][row]
            assert torch.equal(weight[row], source.to(weight)), token


@pytest.mark.parametrize(
    "spell",
    [
        lambda name: name,
        lambda name: name.replace("midlayer.", "layers.0."),
        lambda name: f"model.{name}",
    ],
    ids=["ours", "vllm", "with a prefix"],
)
def test_weights_go_by_name_and_head_rows_by_token(tmp_path, spell):
    old = existing(tmp_path, spell=spell)
    draft = tiny_draft(seed=1)
    before = {name: p.clone() for name, p in draft.named_parameters()}
    warm_start(draft, tmp_path, NEW, LAYERS)
    assert_taken(draft, before, old)


@pytest.mark.parametrize("name", ["input_layernorm", "hidden_norm"])
def test_a_draft_of_several_layers_is_taken_in_either_spelling(tmp_path, name):
    """SGLang norms what a later layer reads by another name than vLLM."""

    def spell(own):
        return own.replace(".1.input_layernorm", f".1.{name}")

    shape = {"num_hidden_layers": 2, "aux_layers": (0, 2)}
    old = existing(tmp_path, config={"num_hidden_layers": 2}, spell=spell, **shape)
    draft = tiny_draft(seed=1, **shape)
    before = {name: p.clone() for name, p in draft.named_parameters()}
    warm_start(draft, tmp_path, NEW, LAYERS)
    assert_taken(draft, before, old)


@pytest.mark.parametrize(
    "config",
    [
        {"rope_theta": 10000.0, "rope_scaling": None},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
        {"eagle_config": {"eagle_aux_hidden_state_layer_ids": []}},  # as NVIDIA's default
        {"eagle_aux_hidden_state_layer_ids": [2, 4, 5], "norm_before_residual": False},
    ],
)
def test_the_same_model_in_other_words_is_taken(tmp_path, config):
    old = existing(tmp_path, config=config)
    draft = tiny_draft(seed=1)
    before = {name: p.clone() for name, p in draft.named_parameters()}
    warm_start(draft, tmp_path, NEW, LAYERS)
    assert_taken(draft, before, old)


def test_a_file_without_a_theta_is_not_the_draft_of_another(tmp_path):
    existing(tmp_path)
    rope = {"rope_type": "default", "rope_theta": 1e6}
    draft = Eagle3Draft(replace(tiny_draft().config, rope=rope))
    with pytest.raises(UserError, match=r'"rope_theta": 10000\.0.* set draft\.rope_theta .10000'):
        warm_start(draft, tmp_path, NEW, LAYERS)


def test_several_files_and_what_is_to_be_kept(tmp_path):
    old = existing(tmp_path)
    more = {"norm.weight": old["norm.weight"].detach()}
    existing(tmp_path, tensors={"norm.weight": None})
    save_file(more, tmp_path / "model-2.safetensors")
    draft = tiny_draft(seed=1)
    head = draft.lm_head.weight.clone()
    warm_start(draft, tmp_path, NEW, LAYERS, keep=["lm_head.weight"])
    assert torch.equal(draft.lm_head.weight, head)
    assert torch.equal(draft.norm.weight, old["norm.weight"].to(draft.norm.weight))


def test_a_draft_of_the_whole_vocabulary_needs_no_list_of_tokens(tmp_path):
    old = existing(tmp_path, tensors={"d2t": None}, ids=torch.arange(VOCAB))
    draft = tiny_draft(seed=1)
    warm_start(draft, tmp_path, NEW, LAYERS)
    assert torch.equal(draft.lm_head.weight, old["lm_head.weight"][NEW].to(draft.lm_head.weight))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"config": {"norm_before_residual": True}},
            "has norm_before_residual True, the draft False",
        ),
        ({"config": {"eagle_config": {"norm_before_fc": True}}}, "has norm_before_fc = true; a"),
        ({"config": {"norm_output": True}}, "has norm_output True, the draft False: it would be"),
        (
            {"config": {"sliding_window": 8, "use_sliding_window": True}},
            "has sliding_window 8, the draft None: .* set draft.sliding_window alike",
        ),
        ({"config": {"rms_norm_eps": 0.05}}, "has rms_norm_eps 0.05, .* set draft.rms_norm_eps"),
        ({"config": {"num_attention_heads": 2}}, "has num_attention_heads 2, the draft 4"),
        ({"config": {"vocab_size": 24}}, "has vocab_size 24, the draft 23"),
        ({"config": {"num_hidden_layers": 2}}, "has num_hidden_layers 2, the draft 1: it would be"),
        ({"num_hidden_layers": 2}, r"also has \['layers.1.input_layernorm.weight', 'layers.1.mlp"),
        ({"aux_layers": (1, 4)}, r"fc.weight of .* is \(8, 16\), the draft's is \(8, 24\)"),
        ({"config": {"rope_theta": 5.0}}, '"rope_theta": 5.0.*set draft.rope_theta .5. and'),
        ({"config": {"rope_scaling": LINEAR}}, '"rope_type": "linear", "factor": 2.0'),
        ({"config": {"rope_scaling": {"rope_type": "longrope"}}}, "rope_type 'longrope'"),
        (
            {"config": {"eagle_aux_hidden_state_layer_ids": [3, 5, 6]}},  # inputs, as vLLM counts
            r"reads layers \[2, 4, 5\] of the target, the states are of \[1, 3, 4\]",
        ),
        (
            {"config": {"transformer_layer_config": {"hidden_act": "silu"}}},
            "norm_before_residual = null; readers disagree",
        ),
        (
            {"config": {"eagle_config": {"eagle_aux_hidden_state_layer_ids": [2, 4, 5]}}},
            r"reads layers \[2, 4, 5\] of the target, the states are of \[1, 3, 4\]",
        ),
        ({"tensors": {"fc.weight": None}}, r"lacks \['fc.weight'\]"),
        ({"qk_norm": True}, r"has \['midlayer.self_attn.k_norm.weight'.*set the draft's switches"),
        (
            {"tensors": {"fc.weight": torch.zeros(8, 8)}},
            r"fc.weight of .* is \(8, 8\), .*\(8, 24\)",
        ),
        ({"tensors": {"d2t": None}}, "has no d2t"),
        ({"tensors": {"d2t": OLD + 100}}, "d2t of .* does not name 13 different tokens"),
        ({"tensors": {"d2t": 0 * OLD[:5]}}, r"lm_head.weight of .* is \(13, 8\), .* \(5, 8\)"),
    ],
)
def test_another_model_is_refused_and_nothing_is_taken(tmp_path, change, sentence):
    existing(tmp_path, **change)
    draft = tiny_draft(seed=1)
    before = {name: p.clone() for name, p in draft.named_parameters()}
    with pytest.raises(UserError, match=f"train.warm_start: .*{sentence}"):
        warm_start(draft, tmp_path, NEW, LAYERS)
    assert all(torch.equal(before[name], p) for name, p in draft.named_parameters())


def test_a_folder_without_a_draft_is_named(tmp_path):
    with pytest.raises(UserError, match=r"config\.json: No such file"):
        warm_start(tiny_draft(), tmp_path, NEW, LAYERS)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"has neither \*\.safetensors nor pytorch_model"):
        warm_start(tiny_draft(), tmp_path, NEW, LAYERS)
