"""`draft.config`: the configuration of a draft in the forms that projects publish.

    flat      SpecForge, EAGLE, NVIDIA, AngelSlim, SGLang, vLLM: keys of a Llama, some of them in
              `eagle_config`
    nested    the speculators library: the layer in `transformer_layer_config`, the rest around it

Every key is used, compared with what is trained here, or listed as irrelevant to the draft's shape.
Any other key is refused by name, since it may describe another model.
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
# the required value of a key, if it is there and not null
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
CHECKED_SEPARATELY = frozenset(  # by the functions below
    (
        *("rope_theta", "rope_scaling", "rope_parameters", "tie_word_embeddings"),
        *("sliding_window", "use_sliding_window", "target_hidden_size", OUTPUTS, INPUTS, AUX_COUNT),
        "layer_types",
    )
)


def read_config_file(path: Path) -> dict[str, Any]:
    """The values of a file, by keys of section `draft`, of the target (`OF_TARGET`) and
    `aux_layers` (0-based layer outputs).

    Raises UserError for a key that cannot be honoured.
    """
    return parse_config(read_object(path, KEY), f"{KEY}: {path}")


def parse_config(
    raw: Mapping[str, Any], where: str, whole_model: bool | None = None
) -> dict[str, Any]:
    """The same for the content of a file; errors begin with `where`. `whole_model`: missing keys
    have the defaults of engines; None: decided by `configures_model`."""
    eagle, layer = _inner(raw, "eagle_config", where), _inner(raw, LAYER, where)
    classes = _classes(raw, where)
    if LAYER in raw:
        _check_nested(raw, layer, where)
    merged = {name: value for name, value in raw.items() if name not in ("eagle_config", LAYER)}
    for part in (layer, eagle):
        for name, value in part.items():
            if merged.get(name) is None or name == "model_type":
                merged[name] = value
    _check(merged, where)
    values = {name: merged[name] for name in COPIED_KEYS if merged.get(name) is not None}
    # in other forms the class decides: a Llama class has no such norms, whatever model_type is
    qwen3 = "Eagle3Qwen3ForCausalLM" in classes
    if LAYER in raw or "Eagle3Draft" in classes:
        qwen3 = merged.get("model_type") == "qwen3"
    values |= {"qk_norm": True} if qwen3 else {}
    values |= _rope(merged, where) | _window(merged, where)
    if whole_model or (whole_model is None and configures_model(raw)):
        values = _with_engine_defaults(values)
    try:
        section = Draft.model_validate(values)
    except ValidationError as fault:
        raise UserError(f"{where}: {sentences(fault, Draft)[0]}") from None
    values = {name: getattr(section, name) for name in values}
    for name in OF_TARGET:
        if merged.get(name) is not None:
            if type(merged[name]) is not int:
                raise _error(where, name, merged[name], "must be a whole number")
            values[name] = merged[name]
    heads, hidden = values.get("num_attention_heads"), values.get("hidden_size")
    if heads and hidden and hidden % heads == 0:  # as a Llama configuration derives it
        values.setdefault("head_dim", hidden // heads)
    return values | _aux_layers(raw, eagle, merged.get(AUX_COUNT), where)


def _check_nested(raw: Mapping[str, Any], layer: Mapping[str, Any], where: str) -> None:
    """Raise UserError if a file of speculators lacks a required key or has an unsupported layer."""
    if raw.get("norm_before_residual") is None:
        raise _error(where, "norm_before_residual", None, "readers disagree; write it down")
    kind = layer.get("model_type", "llama")
    if kind not in ("llama", "qwen3"):
        raise _error(where, f"{LAYER}.model_type", kind, "llama and qwen3 are layers known")


def configures_model(raw: Mapping[str, Any]) -> bool:
    """Whether a file configures a whole model, as an engine reads it: it names a class or type. Any
    other is a list of keys, and the rest follows from the target."""
    return any(raw.get(name) is not None for name in ("architectures", "model_type", LAYER))


def omits_rope_theta(path: Path) -> bool:
    """Whether a file configures a whole model and has no base of the rotary frequencies."""
    raw = read_object(path, KEY)
    values = parse_config(raw, KEY, whole_model=False)
    return configures_model(raw) and "rope_theta" not in values


def _with_engine_defaults(values: dict[str, Any]) -> dict[str, Any]:
    """The values with the defaults of transformers' Llama for keys that change the model."""
    defaults: dict[str, Any] = {
        "rms_norm_eps": 1e-6,
        "rope_theta": THETA,
        "rope_scaling": {"rope_type": "default"},
    }
    if "num_attention_heads" in values:
        defaults["num_key_value_heads"] = values["num_attention_heads"]
    return defaults | values


def resolved(config: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration, whose null keys get the values of `draft.config`."""
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
            raise _error(where, "architectures", names, f"known are {', '.join(CLASSES)}")
    return list(names)


def _inner(raw: Mapping[str, Any], name: str, where: str) -> dict[str, Any]:
    value = raw.get(name) or {}
    if not isinstance(value, dict):
        raise _error(where, name, value, "must be an object")
    return value


def _check(merged: Mapping[str, Any], where: str) -> None:
    """Raise UserError for an unknown key, or a value that is not supported."""
    for name, value in merged.items():
        if value is None or name in IGNORED_KEYS or name in CHECKED_SEPARATELY:
            continue
        if name in EXPECTED:
            if value != EXPECTED[name]:
                expected = json.dumps(EXPECTED[name])
                raise _error(where, name, value, f"a draft here has {expected}")
        elif name not in COPIED_KEYS and name not in OF_TARGET:
            raise _error(where, name, value, "which is no key of a draft known here: remove it")
    tied = merged.get("tie_word_embeddings")
    if tied and merged.get("draft_vocab_size", merged.get("vocab_size")) == merged.get(
        "vocab_size"
    ):
        raise _error(where, "tie_word_embeddings", tied, "a draft here has a head of its own")
    target_hidden_size = merged.get("target_hidden_size")
    if target_hidden_size is not None and target_hidden_size != merged.get(
        "hidden_size", target_hidden_size
    ):
        raise _error(
            where,
            "target_hidden_size",
            target_hidden_size,
            "a draft here is as wide as its target: hidden_size",
        )


def _rope(merged: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Theta and scaling; a file with a theta and no scaling has plain positions."""
    for name in ("rope_scaling", "rope_parameters"):
        if not isinstance(merged.get(name) or {}, dict):
            raise _error(where, name, merged[name], "must be an object")
    scaling = merged.get("rope_parameters") or merged.get("rope_scaling")
    theta, nested_theta = merged.get("rope_theta"), (scaling or {}).get("rope_theta")
    if theta is None and scaling is None:
        return {}
    if None not in (theta, nested_theta) and theta != nested_theta:
        raise _error(where, "rope_theta", theta, f"rope_parameters say {nested_theta!r}")
    parameters = {name: value for name, value in (scaling or {}).items() if name != "rope_theta"}
    if not {"rope_type", "type"} & parameters.keys():
        parameters["rope_type"] = "default"
    base = theta if theta is not None else nested_theta
    return {"rope_scaling": parameters} | ({} if base is None else {"rope_theta": base})


def _window(merged: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The window of attention, if every layer slides."""
    window, layer_types, use_window = (
        merged.get(name) for name in ("sliding_window", "layer_types", "use_sliding_window")
    )
    if layer_types is not None:
        if layer_types not in (
            [kind] * len(layer_types) for kind in ("full_attention", "sliding_attention")
        ):
            raise _error(
                where, "layer_types", layer_types, "layers of a draft here are all of one kind"
            )
        if len(layer_types) != (merged.get("num_hidden_layers") or len(layer_types)):
            raise _error(
                where, "layer_types", layer_types, "it has other layers than num_hidden_layers"
            )
        slides = "sliding_attention" in layer_types
        if slides and (window is None or use_window is False):
            raise _error(where, "layer_types", layer_types, "but sliding_window gives it no window")
    else:
        slides = bool(use_window) and window is not None
        if window is not None and use_window is None:
            raise _error(
                where, "sliding_window", window, "readers disagree; write layer_types too, or null"
            )
    return {"sliding_window": window} if slides else {}


def _aux_layers(
    raw: Mapping[str, Any], eagle: Mapping[str, Any], count: Any, where: str
) -> dict[str, Any]:
    """`aux_layers`, as layer outputs of the target; only their number if the file has `count` and
    names no layer.

    In `eagle_config` they are outputs, as SGLang reads them; at the top level inputs, as in vLLM.
    """
    candidates = [
        (f"eagle_config.{OUTPUTS}", eagle.get(OUTPUTS), 0),
        (OUTPUTS, raw.get(OUTPUTS), 1),
        (INPUTS, raw.get(INPUTS), 1),
    ]
    layers: list[int] | None = None
    for name, ids, offset in candidates:
        if not ids:  # in NVIDIA's files, an empty list is the default
            continue
        if not isinstance(ids, list) or any(type(layer) is not int for layer in ids):
            raise _error(where, name, ids, "must be a list of layers")
        if count not in (None, len(ids)):
            raise _error(where, AUX_COUNT, count, f"{name} has {len(ids)}")
        outputs = [layer - offset for layer in ids]
        if layers is not None and outputs != layers:
            raise _error(where, name, ids, f"other keys name the outputs of {layers}")
        layers = outputs
    if layers is not None:
        return {"aux_layers": layers}
    return {} if count is None else {AUX_COUNT: count}


def _error(where: str, name: str, value: Any, reason: str) -> UserError:
    return UserError(f"{where} has {name} = {json.dumps(value):.120}; {reason}")
