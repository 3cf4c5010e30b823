"""What config.json says in each engine's own spelling."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import get_args

import pytest
from transformers import AutoConfig

from eagle3.config.evaluation import Format
from eagle3.errors import UserError
from eagle3.export.capabilities import check_aux_layers, check_formats, check_rope
from eagle3.export.exported import Description
from eagle3.export.formats import DRAFT_FORMATS
from eagle3.export.load import load_draft
from tests.builders.exports import CONFIG, EAGLE31, LLAMA3, QK_NORM, VERIFIER, export, reconfigured

AUX_IDS = "eagle_aux_hidden_state_layer_ids"


def said(form, config=CONFIG, dtype="bfloat16"):
    return DRAFT_FORMATS[form].write(Description(config, dtype, VERIFIER))


def layer_of(found):
    return found.get("transformer_layer_config", found)


def test_the_forms_are_those_of_the_schema():
    assert tuple(DRAFT_FORMATS) == get_args(Format)


@pytest.mark.parametrize("form", DRAFT_FORMATS)
def test_every_form_says_what_an_engine_would_otherwise_guess(form):
    result = said(form)
    layer = layer_of(result)
    assert result["tie_word_embeddings"] is False and layer["tie_word_embeddings"] is False
    assert layer["attention_bias"] is False and layer["mlp_bias"] is False
    assert result["norm_before_residual"] is False
    assert (result["fc_norm"], result["norm_output"]) == (False, False)
    assert (result["draft_vocab_size"], layer["vocab_size"]) == (12, 40)
    assert layer["max_position_embeddings"] == 512
    assert layer["num_hidden_layers"] == 1 and layer["head_dim"] == 8
    assert layer["model_type"] == "llama" and layer["use_cache"] is True
    assert result["torch_dtype"] == layer["torch_dtype"] == "bfloat16"


@pytest.mark.parametrize("form", DRAFT_FORMATS)
def test_rotary_parameters_stand_in_both_spellings(form):
    layer = layer_of(said(form))
    assert layer["rope_parameters"] == LLAMA3 and layer["rope_theta"] == 500000.0
    assert layer["rope_scaling"] == {k: v for k, v in LLAMA3.items() if k != "rope_theta"}
    plain = replace(CONFIG, rope={"rope_type": "default", "rope_theta": 1e6})
    layer = layer_of(said(form, plain))
    assert layer["rope_theta"] == 1e6 and layer["rope_scaling"] is None
    assert layer["rope_parameters"] == {"rope_type": "default", "rope_theta": 1e6}


@pytest.mark.parametrize("form", ["sglang", "vllm", "hf"])
def test_transformers_reads_the_configuration_as_a_llama(tmp_path, form):
    export(form, tmp_path)
    result = AutoConfig.from_pretrained(tmp_path)
    assert (result.model_type, result.head_dim, result.tie_word_embeddings) == ("llama", 8, False)
    assert result.rope_parameters["rope_theta"] == 500000.0
    assert result.rope_parameters["rope_type"] == "llama3"


def test_layers_are_counted_as_each_engine_counts_them():
    """SGLang: outputs, nested. vLLM and the speculators library: inputs, at the top."""
    for form in DRAFT_FORMATS:
        result = said(form)
        nested = (result.get("eagle_config") or {}).get(AUX_IDS)
        expected = ([1, 3, 4], None) if form == "sglang" else (None, [2, 4, 5])
        if form == "hf":
            assert result["aux_hidden_state_indices"] == [2, 4, 5] and AUX_IDS not in result
        else:
            assert (nested, result.get(AUX_IDS)) == expected


@pytest.mark.parametrize("form", DRAFT_FORMATS)
def test_their_number_is_said_unless_it_is_three(form):
    """vLLM's Llama class does not count the ids at the top, and takes three."""
    assert "num_aux_hidden_states" not in layer_of(said(form))
    five = layer_of(said(form, replace(CONFIG, aux_layers=(0, 1, 2, 3, 5))))
    assert five["num_aux_hidden_states"] == 5


@pytest.mark.parametrize("form", ["vllm", "speculators", "hf"])
@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_a_window_is_in_every_place_where_it_is_looked_for(form, kind):
    plain = replace(CONFIG, qk_norm=kind == "qwen3", num_hidden_layers=2)
    assert not {"sliding_window", "layer_types"} & layer_of(said(form, plain)).keys()
    layer = layer_of(said(form, replace(plain, sliding_window=32)))
    read = AutoConfig.for_model(**layer)  # Qwen3's own class forgets a window that is not used
    assert (read.model_type, read.sliding_window) == (kind, 32)
    assert read.layer_types == ["sliding_attention"] * 2


def test_a_window_is_not_for_sglang():
    with pytest.raises(UserError, match=r"draft\.sliding_window is 32: SGLang.* to null"):
        check_formats(["sglang"], {"sliding_window": 32})
    check_formats(["sglang"], {"sliding_window": None})


def test_a_single_state_is_not_for_sglang(tmp_path):
    """It is as wide as the draft's own, and would pass by fc."""
    for form in DRAFT_FORMATS:
        check_aux_layers([form], (2, 3))
        if form != "sglang":
            check_aux_layers([form], (2,))
    sentence = r"export\.formats is \['hf', 'sglang'\] but hidden_states\.aux_layers is \[2\]"
    with pytest.raises(UserError, match=sentence):
        check_aux_layers(["hf", "sglang"], (2,))
    with pytest.raises(UserError, match="leaves fc out without a word"):
        export("sglang", tmp_path, replace(CONFIG, aux_layers=(2,)))


def test_architectures_are_registered_names():
    names = {form: said(form)["architectures"] for form in DRAFT_FORMATS}
    assert names["sglang"] == names["vllm"] == ["LlamaForCausalLMEagle3"]
    assert names["speculators"] == ["Eagle3Speculator"]
    with_norms = said("vllm", QK_NORM)
    assert with_norms["architectures"] == ["Eagle3Qwen3ForCausalLM"]
    assert with_norms["model_type"] == "qwen3"
    assert layer_of(said("speculators", QK_NORM))["model_type"] == "qwen3"


@pytest.mark.parametrize("form", DRAFT_FORMATS)
def test_switches_of_eagle31_are_at_the_top(form):
    result = said(form, EAGLE31)
    assert result["fc_norm"] is True and result["norm_output"] is True


@pytest.mark.parametrize("form", DRAFT_FORMATS)
@pytest.mark.parametrize("config", [CONFIG, EAGLE31], ids=["plain", "eagle31"])
def test_what_is_written_is_read(form, config):
    written = json.loads(json.dumps(said(form, config, "float16")))
    back = DRAFT_FORMATS[form].read(written)
    assert (back.config, back.dtype) == (config, "float16")


def test_the_speculators_form_names_its_target_and_how_much_to_draft():
    """The fields that vLLM's reader of the format asks for."""
    result = said("speculators")
    assert result["speculators_model_type"] == "eagle3"
    inner = result["speculators_config"]
    assert inner["proposal_methods"][0]["speculative_tokens"] == 5
    assert inner["default_proposal_method"] == inner["proposal_methods"][0]["proposal_type"]
    assert inner["verifier"] == {
        "name_or_path": "meta-llama/Llama-3.1-8B-Instruct",
        "architectures": ["LlamaForCausalLM"],
    }
    with pytest.raises(UserError, match="needs the name of the target"):
        DRAFT_FORMATS["speculators"].write(Description(CONFIG, "float32"))


def top_level(found):
    found[AUX_IDS] = found.pop("eagle_config")[AUX_IDS]


def nested(found):
    found["eagle_config"] = {AUX_IDS: [i - 1 for i in found.pop(AUX_IDS)]}


def put(name, value):
    return lambda found: found.__setitem__(name, value)


MISREAD = {
    "sglang: ids at the top, where nobody looks": ("sglang", top_level, "eagle_config missing"),
    "sglang: ids nowhere": ("sglang", put("eagle_config", None), rf"eagle_config\.{AUX_IDS}"),
    "sglang: ids at both places": ("sglang", put(AUX_IDS, [2, 4, 5]), "does not belong there"),
    "vllm: ids as SGLang has them": ("vllm", nested, f"{AUX_IDS} missing"),
    "vllm: another theta in the old spelling": ("vllm", put("rope_theta", 1e4), "rope_theta is"),
    "vllm: no new spelling": (
        "vllm",
        lambda found: found.pop("rope_parameters"),
        "rope_parameters missing",
    ),
    "speculators: residual left to vLLM's default": (
        "speculators",
        lambda found: found.pop("norm_before_residual"),
        "norm_before_residual missing",
    ),
    "speculators: no target": (
        "speculators",
        lambda found: found["speculators_config"].pop("verifier"),
        "verifier missing",
    ),
}


@pytest.mark.parametrize("name", MISREAD)
def test_the_traps_of_an_engine_are_refused(tmp_path, name):
    form, change, sentence = MISREAD[name]
    export(form, tmp_path)
    reconfigured(tmp_path, change)
    with pytest.raises(UserError, match=sentence):
        load_draft(tmp_path)


@pytest.mark.parametrize("form", DRAFT_FORMATS)
def test_what_an_engine_cannot_hold_is_refused_before_training(form):
    check_formats([form], {"qk_norm": False, "fc_norm": True, "norm_output": True})
    residual = {"norm_before_residual": True}
    if form == "sglang":
        with pytest.raises(
            UserError, match=r"draft\.norm_before_residual is true.*\['vllm', 'specul"
        ):
            check_formats([form], residual)
    else:
        check_formats([form], residual)
    if form == "sglang":
        sentence = r"export\.formats is \['sglang'\] but draft\.qk_norm is true.*\['vllm', 'specul"
        with pytest.raises(UserError, match=sentence):
            check_formats([form], {"qk_norm": True})
        with pytest.raises(UserError, match="qk_norm"):
            check_formats(["hf", form], {"qk_norm": True})
    else:
        check_formats([form], {"qk_norm": True})


@pytest.mark.parametrize("form", DRAFT_FORMATS)
def test_a_factor_on_rotary_positions_that_an_engine_does_not_read_is_refused(form):
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
    own = {"attention_factor": 1.0 + 0.1 * math.log(4.0)}  # what engines compute themselves
    check_rope([form], yarn)
    check_rope([form], yarn | own)
    check_rope([form], {"rope_type": "default", "attention_factor": 3.0})
    scales = {"mscale": 1.0, "mscale_all_dim": 1.0}
    cases = {"attention_factor": {"attention_factor": 3.0}, "mscale and mscale_all_dim": scales}
    for name, more in cases.items():
        if form == "sglang" and name == "attention_factor":  # vLLM reads both in 0.32
            with pytest.raises(UserError, match=f"have {name}, which the engine of {form} does"):
                check_rope([form], yarn | more)
        else:
            check_rope([form], yarn | more)
