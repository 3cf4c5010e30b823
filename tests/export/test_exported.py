"""The export in every form: exactly what an engine reads, and everything it would swallow wrong is
refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from eagle3.errors import UserError
from eagle3.export.capabilities import LACKING
from eagle3.export.exported import expected_shapes
from eagle3.export.formats import DRAFT_FORMATS, format_of
from eagle3.export.load import load_draft
from tests.builders.exports import (
    CONFIG,
    EAGLE31,
    NORMED_RESIDUAL,
    QK_NORM,
    cast,
    draft_and_mapping,
    export,
    inputs,
    logits_by_hand,
    logits_of,
    reconfigured,
    rewritten,
    write,
)

SWITCHES = {
    "plain": CONFIG,
    "norm_output": replace(CONFIG, norm_output=True),
    "eagle31": EAGLE31,
    "qk_norm": QK_NORM,
    "norm_before_residual": NORMED_RESIDUAL,
    "one aux layer": replace(CONFIG, aux_layers=(2,)),
    "five aux layers": replace(CONFIG, aux_layers=(0, 1, 3, 4, 6), fc_norm=True),
    "three layers": replace(CONFIG, num_hidden_layers=3, aux_layers=(1, 4)),
    "two layers with every norm": replace(
        CONFIG, num_hidden_layers=2, fc_norm=True, norm_output=True, qk_norm=True
    ),
    "two layers after the norm": replace(NORMED_RESIDUAL, num_hidden_layers=2),
    "window": replace(QK_NORM, sliding_window=4, num_hidden_layers=2),
    "theta": replace(CONFIG, rope={"rope_type": "default", "rope_theta": 1e6}),
}
NOT_SGLANG = ("window", "one aux layer", "two layers with every norm", "two layers after the norm")
REFUSED = {*LACKING, *(("sglang", name) for name in NOT_SGLANG)}
CASES = [(form, name) for form in DRAFT_FORMATS for name in SWITCHES if (form, name) not in REFUSED]


@pytest.fixture(params=DRAFT_FORMATS)
def exported(request, tmp_path):
    export(request.param, tmp_path)
    return tmp_path


@pytest.fixture
def for_sglang(tmp_path):
    export("sglang", tmp_path)
    return tmp_path


def test_tensor_names_shapes_and_types_are_those_of_the_engine(for_sglang):
    tensors = load_file(for_sglang / "model.safetensors")
    assert {name: tuple(t.shape) for name, t in tensors.items()} == {
        "fc.weight": (16, 48),
        "midlayer.hidden_norm.weight": (16,),
        "midlayer.input_layernorm.weight": (16,),
        "midlayer.post_attention_layernorm.weight": (16,),
        "midlayer.self_attn.q_proj.weight": (32, 32),
        "midlayer.self_attn.k_proj.weight": (16, 32),
        "midlayer.self_attn.v_proj.weight": (16, 32),
        "midlayer.self_attn.o_proj.weight": (16, 32),
        "midlayer.mlp.gate_proj.weight": (24, 16),
        "midlayer.mlp.up_proj.weight": (24, 16),
        "midlayer.mlp.down_proj.weight": (16, 24),
        "norm.weight": (16,),
        "lm_head.weight": (12, 16),
        "d2t": (12,),
        "t2d": (40,),
    }


def test_types_are_the_asked_for_and_the_file_says_its_format(exported):
    tensors = load_file(exported / "model.safetensors")
    assert (tensors["d2t"].dtype, tensors["t2d"].dtype) == (torch.int64, torch.bool)
    floating = {t.dtype for name, t in tensors.items() if name not in ("d2t", "t2d")}
    assert floating == {torch.bfloat16}
    with safe_open(exported / "model.safetensors", "pt") as handle:
        assert handle.metadata()["format"] == "pt"


def test_switches_bring_their_tensors_and_no_others():
    plain = expected_shapes(CONFIG)
    more = {name: expected_shapes(config) for name, config in SWITCHES.items()}
    assert more["norm_output"] == more["norm_before_residual"] == more["theta"] == plain
    assert more["eagle31"] == plain | {f"fc_norm.{i}.weight": (16,) for i in range(3)}
    assert more["qk_norm"] == plain | {
        "midlayer.self_attn.q_norm.weight": (8,),
        "midlayer.self_attn.k_norm.weight": (8,),
    }
    assert more["one aux layer"] == plain | {"fc.weight": (16, 16)}
    five = {f"fc_norm.{i}.weight": (16,) for i in range(5)}
    assert more["five aux layers"] == plain | five | {"fc.weight": (16, 80)}
    further = {
        name.replace("midlayer", f"layers.{number}"): shape
        for number in (1, 2)
        for name, shape in plain.items()
        if name.startswith("midlayer.") and "hidden_norm" not in name
    }
    for name in further:
        if name.split(".")[-2] in ("q_proj", "k_proj", "v_proj"):
            further[name] = (further[name][0], 16)  # they read the state alone
    assert more["three layers"] == plain | further | {"fc.weight": (16, 32)}


@pytest.mark.parametrize("form", DRAFT_FORMATS)
def test_a_further_layer_has_the_names_that_the_engine_looks_for(tmp_path, form):
    """vLLM and speculators norm its input by input_layernorm, SGLang by hidden_norm."""
    export(form, tmp_path, SWITCHES["three layers"])
    names = set(load_file(tmp_path / "model.safetensors"))
    first = "layers.0." if form == "speculators" else "midlayer."
    assert {f"{first}input_layernorm.weight", f"{first}hidden_norm.weight"} <= names
    norm, other = "hidden_norm", "input_layernorm"
    norm, other = (norm, other) if form == "sglang" else (other, norm)
    for number in (1, 2):
        assert f"layers.{number}.{norm}.weight" in names
        assert f"layers.{number}.{other}.weight" not in names


def test_d2t_holds_offsets_and_t2d_the_same_tokens(exported):
    _, mapping = draft_and_mapping()
    tensors = load_file(exported / "model.safetensors")
    ids = tensors["d2t"] + torch.arange(12)
    members = tensors["t2d"].nonzero().flatten()
    assert ids.tolist() == mapping.target_ids.tolist() == members.tolist()
    assert (ids.diff() > 0).all()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("form", DRAFT_FORMATS)
def test_an_export_reads_back_as_the_same_draft(tmp_path, form, dtype):
    draft, mapping = export(form, tmp_path, dtype=dtype)
    loaded, back = load_draft(tmp_path)
    assert loaded.config == CONFIG and (back.t2d == mapping.t2d).all()
    for name, value in cast(draft, dtype).state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("form", "name"), CASES)
@torch.no_grad()
def test_a_reader_with_transformers_and_the_folder_alone_gets_the_trainers_logits(
    tmp_path, form, name, dtype
):
    draft, _ = export(form, tmp_path, SWITCHES[name], dtype)
    given = inputs(draft.config)
    expected = logits_of(cast(draft, dtype), *given)
    back, _ = load_draft(tmp_path)
    for logits, state in (logits_by_hand(tmp_path, *given), logits_of(back, *given)):
        torch.testing.assert_close(logits, expected[0], rtol=0, atol=1e-4)
        torch.testing.assert_close(state, expected[1], rtol=0, atol=1e-4)


def lose(name):
    return lambda tensors: tensors.pop(name)


def rename(old, new):
    return lambda tensors: tensors.__setitem__(new, tensors.pop(old))


def put(name, value):
    return lambda tensors: tensors.__setitem__(name, value(tensors))


CHANGES = {
    "missing fc": (lose("fc.weight"), r"missing: \['fc\.weight'\]"),
    "missing d2t": (lose("d2t"), r"missing: \['d2t'\]"),
    "missing t2d": (lose("t2d"), r"missing: \['t2d'\]"),
    "norm of another name": (
        rename("norm.weight", "model.norm.weight"),
        r"missing: \['norm\.weight'\], unknown: \['model\.norm",
    ),
    "extra bias": (put("fc.bias", lambda t: torch.zeros(16)), r"unknown: \['fc\.bias'\]"),
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
    "another type": (
        put("norm.weight", lambda t: t["norm.weight"].float()),
        r"norm\.weight is float32, config\.json differs",
    ),
    "norms that the configuration does not name": (
        put("fc_norm.0.weight", lambda t: torch.ones(16)),
        r"unknown: \['fc_norm\.0\.weight'\]",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_an_engine_would_load_silently_wrong_is_refused(exported, name):
    change, sentence = CHANGES[name]
    rewritten(exported, change)
    with pytest.raises(UserError, match=sentence) as result:
        load_draft(exported)
    assert "\n" not in str(result.value)


def test_a_misnamed_norm_of_the_layer_is_refused(for_sglang):
    """SGLang would run with a norm of ones, and accept even a little more."""
    change = rename("midlayer.hidden_norm.weight", "midlayer.hidden_layernorm.weight")
    rewritten(for_sglang, change)
    sentence = r"missing: \['midlayer\.hidden_norm\.weight'\], unknown: \['midlayer\.hidden_layern"
    with pytest.raises(UserError, match=sentence):
        load_draft(for_sglang)


@pytest.mark.parametrize("form", DRAFT_FORMATS)
def test_there_is_no_embedding_unless_it_is_asked_for(tmp_path, form):
    table = torch.randn(40, 16)
    draft, _ = export(form, tmp_path, embedding=table)
    tensors = load_file(tmp_path / "model.safetensors")
    if form == "sglang":  # which would replace it by the target's
        assert "embed_tokens.weight" not in tensors
    else:
        assert torch.equal(tensors["embed_tokens.weight"], table.to(torch.bfloat16))
    assert set(load_draft(tmp_path)[0].state_dict()) == set(draft.state_dict())
    export(form, tmp_path)
    assert "embed_tokens.weight" not in load_file(tmp_path / "model.safetensors")


def test_an_embedding_of_another_size_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"embed_tokens\.weight is \(41, 16\), expected \(40, 16\)"):
        export("hf", tmp_path, embedding=torch.zeros(41, 16))


def without(*names):
    return lambda found: [found.pop(name) for name in names]


CONFIGS = {
    "no draft vocabulary": (without("draft_vocab_size"), "draft_vocab_size missing"),
    "no norm switch": (without("norm_output"), "norm_output missing"),
    "residual left to a default": (without("norm_before_residual"), "norm_before_residual missing"),
    "another architecture": (
        lambda f: f.__setitem__("architectures", ["LlamaForCausalLM"]),
        r"architectures is \['LlamaForCausalLM'\], expected",
    ),
    "a key that an engine may know": (
        lambda f: f.__setitem__("num_aux_hidden_states", 3),
        "num_aux_hidden_states does not belong there",
    ),
    "tied": (lambda f: f.__setitem__("tie_word_embeddings", True), "tie_word_embeddings is True"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_configuration_that_an_engine_would_misread_is_refused(exported, name):
    change, sentence = CONFIGS[name]
    reconfigured(exported, change)
    with pytest.raises(UserError, match=sentence) as fault:
        load_draft(exported)
    assert "config.json" in str(fault.value) and "\n" not in str(fault.value)


def test_sglang_is_never_told_of_a_norm_before_the_residual(for_sglang):
    """It would load such a draft and add to the state itself."""
    reconfigured(for_sglang, lambda found: found.__setitem__("norm_before_residual", True))
    sentence = r"config\.json: norm_before_residual is True, expected False"
    with pytest.raises(UserError, match=sentence):
        load_draft(for_sglang)


@pytest.mark.parametrize("text", ["", "{", None, "[]"])
def test_a_damaged_or_missing_configuration_is_a_sentence(exported, text):
    path = exported / "config.json"
    path.unlink()
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=r"config\.json: (no such file|is not JSON|cannot be)"):
        load_draft(exported)


def test_weights_that_the_chosen_type_cannot_hold_are_refused(tmp_path):
    draft, mapping = draft_and_mapping()
    weights = draft.state_dict() | {"norm.weight": torch.full((16,), 1e6)}
    with pytest.raises(UserError, match=r"norm\.weight is not finite in float16"):
        write("sglang", tmp_path, weights, mapping, dtype="float16")
    write("sglang", tmp_path, weights, mapping, dtype="bfloat16")


def test_the_form_of_a_folder_is_that_of_its_manifest(exported, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    export("hf", other)
    (exported / "config.json").write_text((other / "config.json").read_text())
    if format_of(exported).name != "hf":
        with pytest.raises(UserError, match=r"config\.json"):
            load_draft(exported)


@pytest.mark.parametrize("form", DRAFT_FORMATS)
def test_a_draft_of_the_whole_vocabulary_has_a_mapping_only_where_it_is_looked_for(tmp_path, form):
    """vLLM's class has no place for `d2t` then, and an unknown tensor ends it."""
    whole = replace(CONFIG, draft_vocab_size=CONFIG.vocab_size)
    draft, mapping = export(form, tmp_path, whole)
    names = load_file(tmp_path / "model.safetensors").keys()
    maps = {"d2t", "t2d"} if form in ("sglang", "hf") else set()
    assert {"d2t", "t2d"} & names == maps
    back, mapping_back = load_draft(tmp_path)
    assert back.config == draft.config
    assert (mapping_back.d2t == mapping.d2t).all() and (mapping_back.t2d == mapping.t2d).all()
    if not maps:
        rewritten(tmp_path, lambda tensors: tensors.update(d2t=torch.zeros(40).long()))
        with pytest.raises(UserError, match="unknown: \\['d2t'\\]"):
            load_draft(tmp_path)
