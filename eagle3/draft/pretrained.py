"""An existing draft as a start (`train.warm_start`): what an engine loads, read strictly.

A folder with config.json and safetensors in the form that SGLang and vLLM load, ours or another
project's. Rows of its head are matched by target token, since draft vocabularies differ.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch

from eagle3.draft.config import DraftConfig
from eagle3.draft.model import Eagle3Draft
from eagle3.errors import UserError
from eagle3.files.tensor_file import open_tensors

KEY = "train.warm_start"
HEAD = "lm_head.weight"
# of other forms: the layer's name in vLLM and speculators, and tensors that are not weights of ours
SPELLINGS = {"layers.0.": "midlayer."}
NOT_TRAINED = ("d2t", "t2d", "embed_tokens.weight")
# computed in another order there: equal tensors would mean another model
OTHER_MODELS = ("norm_before_residual", "norm_before_fc")


def warm_start(
    draft: Eagle3Draft, folder: Path, target_ids: torch.Tensor, keep: Collection[str] = ()
) -> None:
    """Copy the weights of the draft in `folder` into `draft`, but for the parameters `keep`.

    `target_ids` int64 [V_draft]: tokens of the draft's own vocabulary. Head rows of tokens that the
    existing draft does not have stay as they are. Raises UserError if it is another model.
    """
    described = _described(folder)
    _check_model(folder, described, draft.config)
    tensors = _tensors(folder)
    ids = _target_ids(folder, tensors, draft.config)
    expected = {name: tuple(p.shape) for name, p in draft.named_parameters()}
    saved = {name: value for name, value in tensors.items() if name not in NOT_TRAINED}
    missing, unknown = sorted(set(expected) - set(saved)), sorted(set(saved) - set(expected))
    if missing or unknown:
        raise UserError(
            f"{KEY}: {folder} lacks {missing} and also has {unknown}; set the draft's switches "
            "(draft.qk_norm, draft.fc_norm) to its values, or start without it"
        )
    for name, shape in (expected | {HEAD: (len(ids), draft.config.hidden_size)}).items():
        if tuple(saved[name].shape) != shape:
            raise UserError(
                f"{KEY}: {name} of {folder} is {tuple(saved[name].shape)}, the draft's is {shape}; "
                "its target or its `draft` section is another"
            )
    with torch.no_grad():
        for name, parameter in draft.named_parameters():
            if name in keep:
                continue
            if name == HEAD:
                place = torch.full((draft.config.vocab_size,), -1)
                place[ids] = torch.arange(len(ids))
                rows = place[target_ids]
                parameter[rows >= 0] = saved[name][rows[rows >= 0]].to(parameter)
            else:
                parameter.copy_(saved[name])


def _described(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as fault:
        raise UserError(f"{KEY}: {path} cannot be read ({fault})") from None
    return dict(values)


def _check_model(folder: Path, described: dict[str, Any], config: DraftConfig) -> None:
    """What tensors do not show."""
    nested = described.get("eagle_config") or {}
    both = {**nested, **described}
    for name in OTHER_MODELS:
        if both.get(name):
            raise UserError(f"{KEY}: {folder} has {name}, which this project does not train")
    if "norm_output" in described and bool(described["norm_output"]) != config.norm_output:
        raise UserError(
            f"{KEY}: {folder} has norm_output {described['norm_output']}; set draft.norm_output "
            "to the same, or start without it"
        )
    layers = nested.get("eagle_aux_hidden_state_layer_ids")
    if layers is not None and tuple(layers) != config.aux_layers:
        raise UserError(
            f"{KEY}: {folder} reads layers {list(layers)} of the target, the states are of "
            f"{list(config.aux_layers)}; set hidden_states.aux_layers to the same"
        )


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of the folder, by our names."""
    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        raise UserError(f"{KEY}: {folder} has no *.safetensors; other formats are not read")
    tensors = {}
    for path in paths:
        with open_tensors(path, "pt") as handle:
            for name in handle.keys():  # noqa: SIM118
                ours = name.removeprefix("model.")
                for theirs, spelling in SPELLINGS.items():
                    ours = ours.replace(theirs, spelling)
                tensors[ours] = handle.get_tensor(name)
    return tensors


def _target_ids(
    folder: Path, tensors: dict[str, torch.Tensor], config: DraftConfig
) -> torch.Tensor:
    """int64: the token of each row of its head."""
    rows = len(tensors.get(HEAD, ()))
    offsets = tensors.get("d2t")
    if offsets is None and rows != config.vocab_size:
        raise UserError(f"{KEY}: {folder} has no d2t, so the tokens of its head are not known")
    ids = torch.arange(rows)
    if offsets is not None:
        ids = torch.arange(len(offsets)) + offsets.long()
    inside = bool(((ids >= 0) & (ids < config.vocab_size)).all())
    if not inside or len(ids.unique()) != len(ids):
        raise UserError(
            f"{KEY}: d2t of {folder} does not name {len(ids)} different tokens of the target's "
            f"{config.vocab_size}; its target is another"
        )
    return ids
