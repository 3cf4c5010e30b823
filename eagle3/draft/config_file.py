"""`draft.config`: the configuration of a draft in the forms that projects publish.

    flat      SpecForge, EAGLE, NVIDIA, AngelSlim, SGLang, vLLM: keys of a Llama, some of them in
              `eagle_config`
    nested    the speculators library: the layer in `transformer_layer_config`, the rest around it

Every key is taken, compared with what is trained here, or listed as one that says nothing about the
draft's shape. Any other key is refused by name, since it may be another model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from eagle3.config.draft import Draft
from eagle3.config.faults import sentences
from eagle3.draft.rope_parameters import THETA
from eagle3.errors import UserError
from eagle3.target_model.files import read_object

KEY = "draft.config"
LAYER = "transformer_layer_config"
OUTPUTS, INPUTS = "eagle_aux_hidden_state_layer_ids", "aux_hidden_state_indices"
CLASSES = (
    *("LlamaForCausalLMEagle3", "LlamaForCausalLM", "Eagle3LlamaForCausalLM"),
    *("Eagle3Speculator", "Eagle3DraftModel", "Eagle3Qwen3ForCausalLM", "Eagle3Draft"),
)
COPIED_KEYS = (
    "num_hidden_layers", "intermediate_size", "num_attention_heads", "num_key_value_heads",
    "head_dim", "max_position_embeddings", "rms_norm_eps", "fc_norm", "norm_output",
    "norm_before_residual",
)  # fmt: skip
OF_TARGET = ("hidden_size", "vocab_size", "draft_vocab_size")
AUX_COUNT = "num_aux_hidden_states"
# what a key has to say, if it says anything; null never does
EXPECTED: dict[str, Any] = {
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "bias": False,
    "attention_dropout": 0,
    "position_embedding_type": "rope",
    "partial_rotary_factor": 1,
    "rope_is_neox_style": True,
    "norm_before_fc": False,
    "use_aux_norm": False,
    "use_aux_hidden_state": True,
    "use_input_layernorm_in_first_layer": True,
    "use_last_layernorm": True,
    "use_mtp_layernorm": False,
    "has_lm_head": True,
    "next_layer_regular": True,
    "parallel_draft_step": 1,
    "additional_fc": False,
    "embed_requires_grad": False,
    "speculators_model_type": "eagle3",
}
# about files, the target, generation or training; or read by no class of CLASSES
IGNORED_KEYS = frozenset(
    (
        *("architectures", "auto_map", "model_type", "target_model_type", "transformers_version"),
        *("_name_or_path", "torch_dtype", "dtype", "use_cache", "initializer_range"),
        *("bos_token_id", "eos_token_id", "pad_token_id", "pretraining_tp", "max_window_layers"),
        *("num_local_experts", "experts_per_token", "reuse_target_lm_head"),
        *("speculators_config", "speculators_version", "has_no_defaults_at_init"),
        "parallel_draft_heads_num_layers",
    )
)
CHECKED_SEPARATELY = frozenset(  # looked at below
    (
        *("rope_theta", "rope_scaling", "rope_parameters", "tie_word_embeddings"),
        *("sliding_window", "use_sliding_window", "target_hidden_size", OUTPUTS, INPUTS, AUX_COUNT),
        "layer_types",
    )
)


def read_config_file(path: Path) -> dict[str, Any]:
    """What a file says, in keys of section `draft`, of the target (`OF_TARGET`) and `aux_layers`
    (0-based, by outputs).

    Raises UserError for a key that cannot be honoured.
    """
    return parse_config(read_object(path, KEY), f"{KEY}: {path}")


def parse_config(
    raw: Mapping[str, Any], where: str, whole_model: bool | None = None
) -> dict[str, Any]:
    """The same of a file's content; refusals begin with `where`. `whole_model`: what the file
    leaves out is what engines take for it; None: see `configures_model`."""
    eagle, layer = _inner(raw, "eagle_config", where), _inner(raw, LAYER, where)
    kinds = _classes(raw, where)
    if LAYER in raw:
        _check_nested(raw, layer, where)
    whole = {name: value for name, value in raw.items() if name not in ("eagle_config", LAYER)}
    for part in (layer, eagle):
        for name, value in part.items():
            if whole.get(name) is None or name == "model_type":
                whole[name] = value
    _check(whole, where)
    values = {name: whole[name] for name in COPIED_KEYS if whole.get(name) is not None}
    # elsewhere the class decides, and a Llama's has no such norms whatever model_type is
    qwen3 = "Eagle3Qwen3ForCausalLM" in kinds
    if LAYER in raw or "Eagle3Draft" in kinds:
        qwen3 = whole.get("model_type") == "qwen3"
    values |= {"qk_norm": True} if qwen3 else {}
    values |= _rope(whole, where) | _window(whole, where)
    if whole_model or (whole_model is None and configures_model(raw)):
        values = _as_engines(values)
    try:
        kept = Draft.model_validate(values)
    except ValidationError as fault:
        raise UserError(f"{where}: {sentences(fault, Draft)[0]}") from None
    values = {name: getattr(kept, name) for name in values}
    for name in OF_TARGET:
        if whole.get(name) is not None:
            if type(whole[name]) is not int:
                raise _refused(where, name, whole[name], "must be a whole number")
            values[name] = whole[name]
    heads, hidden = values.get("num_attention_heads"), values.get("hidden_size")
    if heads and hidden and hidden % heads == 0:  # what a Llama's configuration makes of the two
        values.setdefault("head_dim", hidden // heads)
    return values | _aux_layers(raw, eagle, whole.get(AUX_COUNT), where)


def _check_nested(raw: Mapping[str, Any], layer: Mapping[str, Any], where: str) -> None:
    """Raise UserError for what the form of speculators must say, or cannot be."""
    if raw.get("norm_before_residual") is None:
        raise _refused(where, "norm_before_residual", None, "readers disagree; write it down")
    kind = layer.get("model_type", "llama")
    if kind not in ("llama", "qwen3"):
        raise _refused(where, f"{LAYER}.model_type", kind, "llama and qwen3 are layers known")


def configures_model(raw: Mapping[str, Any]) -> bool:
    """Whether a file configures a whole model (it names its class or type), as an engine reads it;
    any other is a list of keys, and leaves the rest to the target."""
    return any(raw.get(name) is not None for name in ("architectures", "model_type", LAYER))


def omits_rope_theta(path: Path) -> bool:
    """Whether a file is of a model and names no base of the rotary frequencies."""
    raw = read_object(path, KEY)
    values = parse_config(raw, KEY, whole_model=False)
    return configures_model(raw) and "rope_theta" not in values


def _as_engines(values: dict[str, Any]) -> dict[str, Any]:
    """With the defaults of transformers' Llama for what decides which model the weights make."""
    unsaid: dict[str, Any] = {
        "rms_norm_eps": 1e-6,
        "rope_theta": THETA,
        "rope_scaling": {"rope_type": "default"},
    }
    if "num_attention_heads" in values:
        unsaid["num_key_value_heads"] = values["num_attention_heads"]
    return unsaid | values


def resolved(config: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with what `draft.config` says where its own keys are null."""
    draft, states = dict(config["draft"]), dict(config["hidden_states"])
    for name, value in values.items():
        if name != "aux_layers" and draft.get(name) is None:
            draft[name] = value
    if states["aux_layers"] is None:
        states["aux_layers"] = values.get("aux_layers")
    return {**config, "draft": draft, "hidden_states": states}


def _classes(raw: Mapping[str, Any], where: str) -> list[str]:
    names = raw.get("architectures") or []
    for name in names:
        if name not in CLASSES:
            raise _refused(where, "architectures", names, f"known are {', '.join(CLASSES)}")
    return list(names)


def _inner(raw: Mapping[str, Any], name: str, where: str) -> dict[str, Any]:
    inside = raw.get(name) or {}
    if not isinstance(inside, dict):
        raise _refused(where, name, inside, "must be an object")
    return inside


def _check(whole: Mapping[str, Any], where: str) -> None:
    """Raise UserError for a key that is not known, or says what is not trained here."""
    for name, value in whole.items():
        if value is None or name in IGNORED_KEYS or name in CHECKED_SEPARATELY:
            continue
        if name in EXPECTED:
            if value != EXPECTED[name]:
                wanted = json.dumps(EXPECTED[name])
                raise _refused(where, name, value, f"a draft here has {wanted}")
        elif name not in COPIED_KEYS and name not in OF_TARGET:
            raise _refused(where, name, value, "which is no key of a draft known here: remove it")
    tied = whole.get("tie_word_embeddings")
    if tied and whole.get("draft_vocab_size", whole.get("vocab_size")) == whole.get("vocab_size"):
        raise _refused(where, "tie_word_embeddings", tied, "a draft here has a head of its own")
    wide = whole.get("target_hidden_size")
    if wide is not None and wide != whole.get("hidden_size", wide):
        raise _refused(
            where, "target_hidden_size", wide, "a draft here is as wide as its target: hidden_size"
        )


def _rope(whole: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Theta and scaling; a file that gives a theta and no scaling has plain positions."""
    for name in ("rope_scaling", "rope_parameters"):
        if not isinstance(whole.get(name) or {}, dict):
            raise _refused(where, name, whole[name], "must be an object")
    scaling = whole.get("rope_parameters") or whole.get("rope_scaling")
    theta, inside = whole.get("rope_theta"), (scaling or {}).get("rope_theta")
    if theta is None and scaling is None:
        return {}
    if None not in (theta, inside) and theta != inside:
        raise _refused(where, "rope_theta", theta, f"rope_parameters say {inside!r}")
    kept = {name: value for name, value in (scaling or {}).items() if name != "rope_theta"}
    if not {"rope_type", "type"} & kept.keys():
        kept["rope_type"] = "default"
    raw = theta if theta is not None else inside
    return {"rope_scaling": kept} | ({} if raw is None else {"rope_theta": raw})


def _window(whole: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The window of attention, if every layer slides."""
    window, kinds, used = (
        whole.get(name) for name in ("sliding_window", "layer_types", "use_sliding_window")
    )
    if kinds is not None:
        if kinds not in ([kind] * len(kinds) for kind in ("full_attention", "sliding_attention")):
            raise _refused(
                where, "layer_types", kinds, "layers of a draft here are all of one kind"
            )
        if len(kinds) != (whole.get("num_hidden_layers") or len(kinds)):
            raise _refused(
                where, "layer_types", kinds, "it has other layers than num_hidden_layers"
            )
        slides = "sliding_attention" in kinds
        if slides and (window is None or used is False):
            raise _refused(where, "layer_types", kinds, "but sliding_window gives it no window")
    else:
        slides = bool(used) and window is not None
        if window is not None and used is None:
            raise _refused(
                where, "sliding_window", window, "readers disagree; write layer_types too, or null"
            )
    return {"sliding_window": window} if slides else {}


def _aux_layers(
    raw: Mapping[str, Any], eagle: Mapping[str, Any], count: Any, where: str
) -> dict[str, Any]:
    """`aux_layers`: layers of the target by their outputs; their number alone if the file, which
    says `count`, names none of them.

    In `eagle_config` they are outputs, as SGLang reads them; at the top inputs, as vLLM does.
    """
    named = [
        (f"eagle_config.{OUTPUTS}", eagle.get(OUTPUTS), 0),
        (OUTPUTS, raw.get(OUTPUTS), 1),
        (INPUTS, raw.get(INPUTS), 1),
    ]
    layers: list[int] | None = None
    for name, ids, offset in named:
        if not ids:  # an empty list is how NVIDIA's files say: the default
            continue
        if not isinstance(ids, list) or any(type(each) is not int for each in ids):
            raise _refused(where, name, ids, "must be a list of layers")
        if count not in (None, len(ids)):
            raise _refused(where, AUX_COUNT, count, f"{name} has {len(ids)}")
        counted = [each - offset for each in ids]
        if layers is not None and counted != layers:
            raise _refused(where, name, ids, f"other keys name the outputs of {layers}")
        layers = counted
    if layers is not None:
        return {"aux_layers": layers}
    return {} if count is None else {AUX_COUNT: count}


def _refused(where: str, name: str, value: Any, reason: str) -> UserError:
    return UserError(f"{where} has {name} = {json.dumps(value):.120}; {reason}")
