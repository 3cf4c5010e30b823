"""The export: exactly what an engine reads, and everything it would swallow wrong is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from shards import stage_settings
from transformers import AutoConfig

from eagle3.draft.config import DraftConfig
from eagle3.draft.model import Eagle3Draft, initialise
from eagle3.errors import UserError
from eagle3.serving.sglang import engine_config, expected_shapes, export_sglang, load_sglang
from eagle3.tokens.vocab import build_mapping

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
CONFIG = DraftConfig(
    hidden_size=16,
    intermediate_size=24,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,  # 4 * 8 is not 16
    vocab_size=40,
    draft_vocab_size=12,
    rms_norm_eps=1e-5,
    max_position_embeddings=512,
    rope=LLAMA3,
    aux_layers=(1, 3, 4),
    bos_token_id=2,
    eos_token_id=[1, 5],
)
NAMES = [
    "fc.weight",
    "midlayer.hidden_norm.weight",
    "midlayer.input_layernorm.weight",
    "midlayer.post_attention_layernorm.weight",
    "midlayer.self_attn.q_proj.weight",
    "midlayer.self_attn.k_proj.weight",
    "midlayer.self_attn.v_proj.weight",
    "midlayer.self_attn.o_proj.weight",
    "midlayer.mlp.gate_proj.weight",
    "midlayer.mlp.up_proj.weight",
    "midlayer.mlp.down_proj.weight",
    "norm.weight",
    "lm_head.weight",
    "d2t",
    "t2d",
]


def draft_and_mapping():
    draft = Eagle3Draft(CONFIG)
    initialise(draft, 3)
    counts = torch.randint(1, 100, (40,), generator=torch.Generator().manual_seed(0)).numpy()
    return draft, build_mapping(counts, 12, [1])


@pytest.fixture
def exported(tmp_path):
    draft, mapping = draft_and_mapping()
    write(tmp_path, draft.state_dict(), mapping)
    return tmp_path


def write(folder, weights, mapping, dtype="bfloat16"):
    export_sglang(folder, CONFIG, weights, mapping, dtype, stage_settings("export"), {})


def test_tensor_names_shapes_and_types_are_those_of_the_engine(exported):
    tensors = load_file(exported / "model.safetensors")
    assert sorted(tensors) == sorted(NAMES)
    assert {name: tuple(t.shape) for name, t in tensors.items()} == expected_shapes(CONFIG)
    assert tensors["midlayer.self_attn.q_proj.weight"].shape == (32, 32)
    assert tensors["midlayer.self_attn.k_proj.weight"].shape == (16, 32)
    assert tensors["midlayer.self_attn.o_proj.weight"].shape == (16, 32)
    assert tensors["fc.weight"].shape == (16, 48)
    assert (tensors["d2t"].dtype, tensors["t2d"].dtype) == (torch.int64, torch.bool)
    floating = {t.dtype for name, t in tensors.items() if name not in ("d2t", "t2d")}
    assert floating == {torch.bfloat16}
    with safe_open(exported / "model.safetensors", "pt") as handle:
        assert handle.metadata()["format"] == "pt"


def test_d2t_holds_offsets_and_t2d_the_same_tokens(exported):
    _, mapping = draft_and_mapping()
    tensors = load_file(exported / "model.safetensors")
    ids = tensors["d2t"] + torch.arange(12)
    assert (
        ids.tolist() == mapping.target_ids.tolist() == tensors["t2d"].nonzero().flatten().tolist()
    )
    assert (ids.diff() > 0).all()


def test_the_configuration_says_everything_an_engine_would_otherwise_guess(exported):
    found = json.loads((exported / "config.json").read_text())
    assert found["architectures"] == ["LlamaForCausalLMEagle3"]
    assert found["tie_word_embeddings"] is False and found["attention_bias"] is False
    assert (found["draft_vocab_size"], found["vocab_size"]) == (12, 40)
    assert found["max_position_embeddings"] == 512
    assert found["num_hidden_layers"] == 1 and found["head_dim"] == 8
    assert found["eagle_config"]["eagle_aux_hidden_state_layer_ids"] == [1, 3, 4]
    assert "eagle_aux_hidden_state_layer_ids" not in found  # at top level it has another meaning
    assert found["use_cache"] is True and found["torch_dtype"] == "bfloat16"
    # rotary parameters in both spellings
    assert found["rope_parameters"] == LLAMA3
    assert found["rope_theta"] == 500000.0
    assert found["rope_scaling"] == {k: v for k, v in LLAMA3.items() if k != "rope_theta"}


def test_default_rotary_positions_have_a_theta_and_no_scaling():
    plain = replace(CONFIG, rope={"rope_type": "default", "rope_theta": 1e6})
    found = engine_config(plain, "float16")
    assert found["rope_theta"] == 1e6 and found["rope_scaling"] is None
    assert found["rope_parameters"] == {"rope_type": "default", "rope_theta": 1e6}


def test_transformers_reads_the_configuration_as_a_llama(exported):
    found = AutoConfig.from_pretrained(exported)
    assert (found.model_type, found.head_dim, found.tie_word_embeddings) == ("llama", 8, False)
    assert found.rope_parameters["rope_theta"] == 500000.0
    assert found.rope_parameters["rope_type"] == "llama3"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_an_export_reads_back_as_the_same_draft(tmp_path, dtype):
    draft, mapping = draft_and_mapping()
    write(tmp_path, draft.state_dict(), mapping, dtype)
    loaded, back = load_sglang(tmp_path)
    assert loaded.config == CONFIG and (back.t2d == mapping.t2d).all()
    for name, value in draft.state_dict().items():
        expected = value.to(getattr(torch, dtype)).float()
        assert torch.equal(loaded.state_dict()[name], expected), name


def rewritten(folder, change):
    """Change tensors of a finished export in place, keeping its manifest and its checksum right."""
    from dataclasses import asdict

    from eagle3.artifact import MANIFEST_KEY, canonical
    from eagle3.serving.sglang import KIND
    from eagle3.tensorfile import content_sha256, read_manifest

    path = folder / "model.safetensors"
    manifest = read_manifest(path, KIND)
    tensors = dict(load_file(path))
    change(tensors)
    stamped = {**asdict(manifest), "content_sha256": content_sha256(tensors)}
    save_file(tensors, path, metadata={MANIFEST_KEY: canonical(stamped)})


def lose(name):
    return lambda tensors: tensors.pop(name)


def rename(old, new):
    return lambda tensors: tensors.__setitem__(new, tensors.pop(old))


def put(name, value):
    return lambda tensors: tensors.__setitem__(name, value(tensors))


CHANGES = {
    "missing fc": (lose("fc.weight"), r"missing: \['fc\.weight'\]"),
    "missing d2t": (lose("d2t"), r"missing: \['d2t'\]"),
    "misnamed norm": (
        rename("midlayer.hidden_norm.weight", "midlayer.hidden_layernorm.weight"),
        r"missing: \['midlayer\.hidden_norm\.weight'\], unknown: \['midlayer\.hidden_layernorm",
    ),
    "extra bias": (put("fc.bias", lambda t: torch.zeros(16)), r"unknown: \['fc\.bias'\]"),
    "own embedding": (
        put("embed_tokens.weight", lambda t: torch.zeros(40, 16)),
        r"unknown: \['embed_tokens\.weight'\]",
    ),
    "absolute d2t": (
        put("d2t", lambda t: t["d2t"] + torch.arange(12)),
        r"d2t \(offsets\) and t2d \(membership\)",
    ),
    "membership of others": (put("t2d", lambda t: t["t2d"].flip(0)), "d2t"),
    "transposed weight": (
        put("fc.weight", lambda t: t["fc.weight"].T.contiguous()),
        r"fc\.weight is \(48, 16\), expected \(16, 48\)",
    ),
    "not finite": (
        put("norm.weight", lambda t: t["norm.weight"] * float("inf")),
        r"norm\.weight is not finite",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_an_engine_would_load_silently_wrong_is_refused(exported, name):
    change, sentence = CHANGES[name]
    rewritten(exported, change)
    with pytest.raises(UserError, match=sentence) as found:
        load_sglang(exported)
    assert "\n" not in str(found.value)


def without(*names):
    return lambda found: [found.pop(name) for name in names]


def ids_at_top_level(found):
    found["eagle_aux_hidden_state_layer_ids"] = found.pop("eagle_config")[
        "eagle_aux_hidden_state_layer_ids"
    ]


CONFIGS = {
    "layer ids at top level only": (ids_at_top_level, r"eagle_config\.eagle_aux_hidden"),
    "null eagle_config": (lambda f: f.__setitem__("eagle_config", None), r"eagle_config\."),
    "no draft vocabulary": (without("draft_vocab_size"), "draft_vocab_size missing"),
    "no rotary parameters": (without("rope_parameters"), "rope_parameters missing"),
    "tied": (lambda f: f.__setitem__("tie_word_embeddings", True), "untied"),
    "another architecture": (
        lambda f: f.__setitem__("architectures", ["LlamaForCausalLM"]),
        "LlamaForCausalLMEagle3",
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_configuration_that_an_engine_would_misread_is_refused(exported, name):
    change, sentence = CONFIGS[name]
    path = exported / "config.json"
    found = json.loads(path.read_text())
    change(found)
    path.write_text(json.dumps(found))
    with pytest.raises(UserError, match=sentence) as fault:
        load_sglang(exported)
    assert "config.json" in str(fault.value) and "\n" not in str(fault.value)


@pytest.mark.parametrize("text", ["", "{", None])
def test_a_damaged_or_missing_configuration_is_a_sentence(exported, text):
    path = exported / "config.json"
    path.unlink()
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=r"config\.json: (no such file|is not JSON)"):
        load_sglang(exported)


def test_weights_that_the_chosen_type_cannot_hold_are_refused(tmp_path):
    draft, mapping = draft_and_mapping()
    weights = draft.state_dict() | {"norm.weight": torch.full((16,), 1e6)}
    with pytest.raises(UserError, match=r"norm\.weight is not finite in torch\.float16"):
        write(tmp_path, weights, mapping, "float16")
    write(tmp_path, weights, mapping, "bfloat16")
