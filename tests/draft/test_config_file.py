"""`draft.config`: files of other projects, read key by key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig

from eagle3.config.configuration import Config
from eagle3.draft.config import derive_config
from eagle3.draft.config_file import (
    CLASSES,
    COPIED_KEYS,
    EXPECTED,
    OF_TARGET,
    omits_rope_theta,
    parse_config,
    read_config_file,
    resolved,
)
from eagle3.errors import UserError
from eagle3.export.exported import Description, Verifier
from eagle3.export.formats import DRAFT_FORMATS
from tests.builders.exports import CONFIG
from tests.draft.published_configs import LAYER, LLAMA, NVIDIA, SPECFORGE, SPECULATORS

WHERE = "draft.config: config.json"
PLAIN = SPECFORGE["longcat-flash-eagle3.json"]


def target_of(file: dict[str, Any], **changes: Any) -> LlamaConfig:
    """A target whose own shape is nothing like the draft's."""
    values = {
        "hidden_size": file["hidden_size"],
        "vocab_size": file["vocab_size"],
        "intermediate_size": 64,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "num_hidden_layers": 80,
        "max_position_embeddings": 1024,
        "rope_parameters": {"rope_type": "linear", "rope_theta": 77.0, "factor": 2.0},
    }
    return LlamaConfig(**values | changes)


def derived(file: dict[str, Any], target: Any = None, **keys: Any) -> Any:
    """The draft of a run with this file and these keys of section `draft`."""
    said = parse_config(file, WHERE)
    config = Config.of({"run": "x", "draft": keys}).to_dict()
    section = resolved(config, said)
    size = file.get("draft_vocab_size", 8)
    layers = tuple(section["hidden_states"]["aux_layers"] or (0, 1, 2))
    return derive_config(target or target_of(file), section["draft"], size, layers)


@pytest.mark.parametrize("name", SPECFORGE)
def test_a_published_configuration_becomes_the_draft_that_it_describes(name: str) -> None:
    file = SPECFORGE[name]
    if "mrope_section" in (file.get("rope_scaling") or {}):
        rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2]}
        draft = derived(file, target_of(file, rope_parameters=rope))
    else:
        draft = derived(file)
    for key in (*COPIED_KEYS, *OF_TARGET):
        if key in file:
            assert getattr(draft, key) == file[key], key
    assert draft.head_dim == LlamaConfig(**file).head_dim
    if "rope_theta" in file:
        scaling = file.get("rope_scaling") or {"rope_type": "default"}
        assert draft.rope == scaling | {"rope_theta": file["rope_theta"]}
    else:  # which every engine reads as
        assert draft.rope == {"rope_type": "default", "rope_theta": 10000.0}
    layers = file.get("eagle_config", {}).get("eagle_aux_hidden_state_layer_ids", [0, 1, 2])
    assert draft.aux_layers == tuple(layers)
    assert draft.qk_norm is False


def test_there_are_ten_and_more_of_them() -> None:
    assert len(SPECFORGE) >= 10


def test_the_form_of_speculators_counts_inputs_and_nests_its_layer() -> None:
    target = target_of(LAYER)
    draft = derived(SPECULATORS, target)
    assert draft.aux_layers == (1, 15, 28)
    assert draft.rope == LAYER["rope_parameters"]
    assert (draft.intermediate_size, draft.head_dim, draft.qk_norm) == (14336, 128, False)
    qwen = SPECULATORS | {"transformer_layer_config": LAYER | {"model_type": "qwen3"}}
    assert derived(qwen, target).qk_norm is True


def test_the_nested_part_of_nvidia_says_what_every_draft_here_is() -> None:
    draft = derived(PLAIN | {"eagle_config": NVIDIA})
    assert draft == derived(PLAIN)
    with pytest.raises(UserError, match=r"has use_mtp_layernorm = true; a draft here has false"):
        parse_config(PLAIN | {"eagle_config": NVIDIA | {"use_mtp_layernorm": True}}, WHERE)


def test_as_many_layers_as_a_file_names_are_read_and_trained() -> None:
    inputs = PLAIN | {"eagle_aux_hidden_state_layer_ids": [3, 9], "num_hidden_layers": 2}
    draft = derived(inputs)
    assert (draft.aux_layers, draft.num_hidden_layers) == ((2, 8), 2)
    five = {"eagle_config": {"eagle_aux_hidden_state_layer_ids": [1, 2, 5, 8, 9]}}
    assert derived(PLAIN | five | {"num_aux_hidden_states": 5}).aux_layers == (1, 2, 5, 8, 9)
    assert derived(PLAIN).num_hidden_layers == 1
    assert derived(inputs, num_hidden_layers=1).num_hidden_layers == 1


WINDOWS = [
    ({"sliding_window": 512, "use_sliding_window": False}, None),
    ({"sliding_window": 512, "layer_types": ["full_attention"]}, None),
    ({"sliding_window": None, "use_sliding_window": True}, None),
    ({"sliding_window": 512, "use_sliding_window": True}, 512),
    ({"sliding_window": 64, "use_sliding_window": None, "layer_types": ["sliding_attention"]}, 64),
]


@pytest.mark.parametrize(("change", "window"), WINDOWS)
def test_a_window_is_the_files_where_it_is_used(change: dict[str, Any], window: int | None) -> None:
    assert derived(PLAIN | change).sliding_window == window
    assert derived(PLAIN | change, sliding_window=99).sliding_window == 99


def test_a_number_of_layers_without_their_names_has_to_be_that_of_the_run() -> None:
    said = parse_config(PLAIN | {"num_aux_hidden_states": 2}, WHERE)
    target = target_of(PLAIN)
    size = PLAIN["draft_vocab_size"]
    assert derive_config(target, said, size, (4, 7)).aux_layers == (4, 7)
    with pytest.raises(UserError, match="num_aux_hidden_states 2 and not which layers"):
        derive_config(target, said, size, (4, 7, 9))


@pytest.mark.parametrize("form", DRAFT_FORMATS)
@pytest.mark.parametrize(
    "switches",
    [
        {},
        {"fc_norm": True, "norm_output": True},
        {"num_hidden_layers": 3, "aux_layers": (2, 5)},
        {"aux_layers": (0, 1, 2, 5, 7)},
        {"sliding_window": 24, "num_hidden_layers": 2},
    ],
)
def test_our_own_exports_say_the_draft_that_was_exported(
    form: str, switches: dict[str, Any]
) -> None:
    config = type(CONFIG)(**{**vars(CONFIG), **switches})
    verifier = Verifier("target", ("LlamaForCausalLM",), 3)
    written = json.loads(
        json.dumps(DRAFT_FORMATS[form].write(Description(config, "bfloat16", verifier)))
    )
    said = parse_config(written, WHERE)
    section = resolved(Config.of({"run": "x"}).to_dict(), said)
    layers = tuple(section["hidden_states"]["aux_layers"])
    target = target_of(
        vars(config), bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id
    )
    assert derive_config(target, section["draft"], config.draft_vocab_size, layers) == config


def test_where_the_residual_is_taken_is_the_files() -> None:
    assert derived(PLAIN | {"norm_before_residual": True}).norm_before_residual is True
    assert derived(SPECULATORS, target_of(LAYER)).norm_before_residual is False
    normed = SPECULATORS | {"norm_before_residual": True}
    assert derived(normed, target_of(LAYER)).norm_before_residual is True


def test_a_key_of_the_section_goes_before_the_file_and_the_file_before_the_target() -> None:
    draft = derived(PLAIN, intermediate_size=80, rope_theta=5.0, fc_norm=True)
    assert (draft.intermediate_size, draft.num_attention_heads) == (80, 64)
    assert draft.rope == {"rope_type": "default", "rope_theta": 5.0}
    assert draft.fc_norm and not draft.norm_output
    norms = SPECFORGE["qwen3-30B-A3B-eagle3.1.json"]
    assert derived(norms).fc_norm and not derived(norms, fc_norm=False).fc_norm
    yarn = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 64}
    assert derived(PLAIN, rope_scaling=yarn).rope == yarn | {"rope_theta": 10000000.0}
    # a scaling that no draft can have does no harm where the section has another
    longrope = PLAIN | {"rope_scaling": {"rope_type": "longrope", "long_factor": [1.0]}}
    assert derived(longrope, rope_scaling={"rope_type": "default"}).rope["rope_type"] == "default"
    with pytest.raises(UserError, match="rope_type 'longrope'"):
        derived(longrope)


def test_the_sections_own_layers_go_before_the_files() -> None:
    said = parse_config(SPECFORGE["kimi-k2-eagle3.json"], WHERE)
    config = Config.of({"run": "x", "hidden_states": {"aux_layers": [3, 4, 5]}}).to_dict()
    assert resolved(config, said)["hidden_states"]["aux_layers"] == [3, 4, 5]
    assert resolved(config, {}) == config


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "class": ({"architectures": ["PEagleDraftModel"]}, "architectures = "),
    "layers": ({"num_hidden_layers": 61}, "num_hidden_layers is 61; must be at most 16"),
    "activation": ({"hidden_act": "gelu"}, 'hidden_act = "gelu"; a draft here has "silu"'),
    "one layer slides": (
        {"layer_types": ["sliding_attention", "full_attention"], "num_hidden_layers": 2},
        '"full_attention"]; layers of a draft here are all of one kind',
    ),
    "another kind": ({"layer_types": ["linear_attention"]}, "are all of one kind"),
    "as many kinds": ({"layer_types": ["full_attention"] * 2}, "other layers than num_hidden"),
    "no window": ({"layer_types": ["sliding_attention"]}, "but sliding_window gives it no window"),
    "window unsaid": ({"sliding_window": 512, "use_sliding_window": None}, "sliding_window = 512"),
    "experts": ({"num_experts": 128}, "num_experts = 128; which is no key of a draft known"),
    "tied": ({"tie_word_embeddings": True}, "tie_word_embeddings = true"),
    "other width": ({"target_hidden_size": 4096}, "target_hidden_size = 4096"),
    "text": ({"head_dim": "wide"}, "head_dim is 'wide'; expected integer or null"),
    "sizes": ({"vocab_size": "many"}, 'vocab_size = "many"; must be a whole number'),
    "two thetas": (
        {"rope_parameters": {"rope_type": "default", "rope_theta": 5.0}},
        "rope_theta = 10000000.0; rope_parameters say 5.0",
    ),
    "scaling": ({"rope_scaling": "yarn"}, 'rope_scaling = "yarn"; must be an object'),
    "aux": ({"eagle_config": {"eagle_aux_hidden_state_layer_ids": [1, "2"]}}, '"2"]; must be a'),
    "aux count": (
        {"num_aux_hidden_states": 5, "eagle_aux_hidden_state_layer_ids": [1, 2, 3]},
        "num_aux_hidden_states = 5; eagle_aux_hidden_state_layer_ids has 3",
    ),
    "nested": ({"eagle_config": [1]}, "eagle_config = [1]; must be an object"),
    "other aux": (
        {
            "eagle_config": {"eagle_aux_hidden_state_layer_ids": [1, 2, 3]},
            "eagle_aux_hidden_state_layer_ids": [1, 2, 3],
        },
        "eagle_aux_hidden_state_layer_ids = [1, 2, 3]; other keys name the outputs of [1, 2, 3]",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_honoured_is_refused_by_name(case: str) -> None:
    change, sentence = REFUSED[case]
    with pytest.raises(UserError) as refusal:
        parse_config(PLAIN | change, WHERE)
    assert sentence in str(refusal.value)
    assert str(refusal.value).startswith("draft.config: config.json")


def test_speculators_must_say_where_its_residual_is_taken() -> None:
    unsaid = {name: value for name, value in SPECULATORS.items() if name != "norm_before_residual"}
    with pytest.raises(UserError, match=r"norm_before_residual = null; readers disagree"):
        parse_config(unsaid, WHERE)
    other = SPECULATORS | {"transformer_layer_config": LAYER | {"model_type": "deepseek_v3"}}
    with pytest.raises(UserError, match=r"transformer_layer_config\.model_type"):
        parse_config(other, WHERE)


@pytest.mark.parametrize("name", EXPECTED)
def test_every_expected_value_passes_and_every_other_is_refused(name: str) -> None:
    parse_config(PLAIN | {name: EXPECTED[name]}, WHERE)
    other = not EXPECTED[name] if isinstance(EXPECTED[name], bool) else "other"
    with pytest.raises(UserError, match=f"has {name} = "):
        parse_config(PLAIN | {name: other}, WHERE)


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_passes(name: str) -> None:
    said = parse_config(LLAMA | {"architectures": [name]}, WHERE, whole_model=False)
    assert said == {"num_hidden_layers": 1} | ({"qk_norm": True} if "Qwen3" in name else {})


READ_AS = {"rms_norm_eps": 1e-6, "rope_theta": 1e4, "rope_scaling": {"rope_type": "default"}}


def test_what_a_models_file_leaves_out_is_what_engines_take_and_a_lists_is_the_targets() -> None:
    """One rule for `draft.config` and `train.warm_start`; transformers is the judge."""
    for file in ({"model_type": "llama"}, {"architectures": ["LlamaForCausalLMEagle3"]}):
        assert parse_config(file, WHERE) == READ_AS
    engine = LlamaConfig()
    rope = engine.rope_parameters
    assert (engine.rms_norm_eps, rope["rope_theta"]) == (1e-6, 1e4)
    assert rope["rope_type"] == "default"
    heads = {"model_type": "llama", "num_attention_heads": 4, "hidden_size": 16}
    said = parse_config(heads, WHERE)
    assert said["num_key_value_heads"] == LlamaConfig(**heads).num_key_value_heads == 4
    yarn = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 64}
    said = parse_config({"model_type": "llama", "rope_scaling": yarn}, WHERE)
    assert (said["rope_theta"], said["rope_scaling"]) == (1e4, yarn)
    assert parse_config({"intermediate_size": 64}, WHERE) == {"intermediate_size": 64}
    assert parse_config({}, WHERE, whole_model=True) == READ_AS
    draft = derived({"hidden_size": 32, "vocab_size": 40, "intermediate_size": 80})
    assert draft.rope == {"rope_type": "linear", "rope_theta": 77.0, "factor": 2.0}


def test_a_models_file_without_a_theta_is_known(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    for file, left_out in (
        (LLAMA, True),
        (LLAMA | {"rope_theta": 5.0}, False),
        (LLAMA | {"rope_parameters": {"rope_type": "default", "rope_theta": 5.0}}, False),
        ({"intermediate_size": 64}, False),
    ):
        path.write_text(json.dumps(file))
        assert omits_rope_theta(path) == left_out, file


@pytest.mark.parametrize(
    ("name", "other", "sentence"),
    [
        ("hidden_size", 64, "draft.config says hidden_size 6144, the target's is 64"),
        ("vocab_size", 96, "draft.config says vocab_size 131072, the target's is 96"),
    ],
)
def test_a_configuration_for_another_target_is_refused(
    name: str, other: int, sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        derived(PLAIN, target_of(PLAIN, **{name: other}))
    with pytest.raises(UserError, match="set it to 131072"):
        derive_config(target_of(PLAIN), parse_config(PLAIN, WHERE), 32000, (0, 1, 2))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [(None, "No such file"), ("{", "is not JSON"), ("[1]", "does not hold a JSON object")],
)
def test_a_file_that_is_none_is_one_sentence(
    tmp_path: Path, text: str | None, sentence: str
) -> None:
    path = tmp_path / "draft.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=sentence):
        read_config_file(path)
