"""Is an existing draft (`train.warm_start`) the model that is to be trained? What its config.json
says of it, before any job; its tensors are compared when they are read."""

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

# tensors of the same shapes would mean another model
COMPARED = (
    "vocab_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
    "rms_norm_eps", "norm_output", "norm_before_residual", "sliding_window",
)  # fmt: skip


def check_existing(folder: Path, config: DraftConfig, target_layers: int) -> None:
    """Raise UserError if config.json of the draft in `folder` describes another model than
    `config`, or none that is known.

    `target_layers`: how many the target has; a draft that names none of them reads the usual ones.
    """
    path = config_of(folder)
    said = parse_config(read_object(path, KEY), f"{KEY}: {path}", whole_model=True)
    for name in ("norm_output", "norm_before_residual"):
        said.setdefault(name, False)  # as engines read them
    said.setdefault("sliding_window", None)
    for name in COMPARED:
        if name in said and said[name] != getattr(config, name):
            raise UserError(
                f"{KEY}: {folder} has {name} {said[name]}, the draft {getattr(config, name)}: it "
                f"would be another model; set draft.{name} alike, or start without it"
            )
    layers, named = said.get("aux_layers"), "reads"
    if layers is None and target_layers >= FEWEST_LAYERS:
        layers, named = list(aux_layers(None, target_layers)), "names no layers, so it reads"
    if layers is not None and tuple(layers) != config.aux_layers:
        raise UserError(
            f"{KEY}: {folder} {named} layers {layers} of the target, the states are of "
            f"{list(config.aux_layers)}; set hidden_states.aux_layers alike"
        )
    _check_rope(folder, said, config)


def _check_rope(folder: Path, said: dict[str, Any], config: DraftConfig) -> None:
    """The rotary angles are the same."""
    key = f"{KEY}: rope_scaling of {folder}"
    theta, given = chosen(said["rope_theta"], said["rope_scaling"], key)
    rope = {**given, "rope_theta": theta}
    if meaning(rope) != meaning(config.rope):
        raise UserError(
            f"{KEY}: {folder} has rotary positions {json.dumps(rope)}, the draft "
            f"{json.dumps(config.rope)}: it would be another model; set draft.rope_theta "
            f"({theta:g}) and draft.rope_scaling alike, or start without it"
        )
