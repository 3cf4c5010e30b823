"""Check before any job that an existing draft (`train.warm_start`) is the model to be trained, by
its config.json. Its tensors are compared when they are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from eagle3.draft.config import DraftConfig
from eagle3.draft.config_file import parse_config
from eagle3.draft.rope_parameters import chosen, meaning
from eagle3.draft.weight_files import KEY, config_of
from eagle3.errors import UserError
from eagle3.target_model.files import read_object
from eagle3.target_model.layers import FEWEST_LAYERS, aux_layers

# keys that change the model without changing the shapes of its tensors
COMPARED = (
    "vocab_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
    "rms_norm_eps", "norm_output", "norm_before_residual", "sliding_window",
)  # fmt: skip


def check_existing(folder: Path, config: DraftConfig, target_layers: int) -> None:
    """Raise UserError if config.json of the draft in `folder` describes another model than
    `config`, or an unknown one.

    `target_layers`: number of layers of the target; a draft that names none reads the default ones.
    """
    path = config_of(folder)
    stated = parse_config(read_object(path, KEY), f"{KEY}: {path}", whole_model=True)
    for name in ("norm_output", "norm_before_residual"):
        stated.setdefault(name, False)  # as engines read them
    stated.setdefault("sliding_window", None)
    for name in COMPARED:
        if name in stated and stated[name] != getattr(config, name):
            raise UserError(
                f"{KEY}: {folder} has {name} {stated[name]}, the draft {getattr(config, name)}: it "
                f"would be another model; set draft.{name} alike, or start without it"
            )
    layers, verb = stated.get("aux_layers"), "reads"
    if layers is None and target_layers >= FEWEST_LAYERS:
        layers, verb = list(aux_layers(None, target_layers)), "names no layers, so it reads"
    if layers is not None and tuple(layers) != config.aux_layers:
        raise UserError(
            f"{KEY}: {folder} {verb} layers {layers} of the target, the states are of "
            f"{list(config.aux_layers)}; set hidden_states.aux_layers alike"
        )
    _check_rope(folder, stated, config)


def _check_rope(folder: Path, stated: dict[str, Any], config: DraftConfig) -> None:
    """Raise UserError if the rotary angles differ."""
    key = f"{KEY}: rope_scaling of {folder}"
    theta, parameters = chosen(stated["rope_theta"], stated["rope_scaling"], key)
    rope = {**parameters, "rope_theta": theta}
    if meaning(rope) != meaning(config.rope):
        raise UserError(
            f"{KEY}: {folder} has rotary positions {json.dumps(rope)}, the draft "
            f"{json.dumps(config.rope)}: it would be another model; set draft.rope_theta "
            f"({theta:g}) and draft.rope_scaling alike, or start without it"
        )
