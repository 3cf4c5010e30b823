"""An existing draft as initial weights (`train.warm_start`), read strictly.

config.json and weights, of this or another project, in a form that SGLang, vLLM or EAGLE loads:
safetensors, or torch's own format. Rows of its head are matched by target token, since draft
vocabularies differ.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

import torch

from eagle3.draft.config import DraftConfig
from eagle3.draft.existing import check_existing
from eagle3.draft.model import Eagle3Draft
from eagle3.draft.shapes import HEAD
from eagle3.draft.weight_files import KEY, weight_files
from eagle3.errors import UserError
from eagle3.files.tensor_file import open_tensors
from eagle3.files.torch_file import load_torch_file

# other forms: the layer's name in vLLM and speculators, and tensors that are not trained
SPELLINGS = {"layers.0.": "midlayer."}
SGLANG_NORM = re.compile(r"^(layers\.\d+\.)hidden_norm")  # of a layer after the first
NOT_TRAINED = ("d2t", "t2d", "embed_tokens.weight")


def warm_start(
    draft: Eagle3Draft,
    folder: Path,
    target_ids: torch.Tensor,
    target_layers: int,
    keep: Collection[str] = (),
) -> None:
    """Copy the weights of the draft in `folder`, which may be a file of weights, into `draft`,
    except the parameters `keep`.

    `target_ids` int64 [V_draft]: tokens of the new draft's vocabulary. Head rows of tokens that the
    existing draft lacks are left unchanged. `target_layers`: see `check_existing`. Raises UserError
    if it is another model.
    """
    check_existing(folder, draft.config, target_layers)
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
                row_of_token = torch.full((draft.config.vocab_size,), -1)
                row_of_token[ids] = torch.arange(len(ids))
                rows = row_of_token[target_ids]
                parameter[rows >= 0] = saved[name][rows[rows >= 0]].to(parameter)
            else:
                parameter.copy_(saved[name])


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of the draft, by the names of `Eagle3Draft`."""
    tensors = {}
    for path in weight_files(folder):
        for name, tensor in _read(path).items():
            own_name = name.removeprefix("model.")
            for prefix, own_prefix in SPELLINGS.items():
                own_name = own_name.replace(prefix, own_prefix)
            tensors[own_name] = tensor
    return {SGLANG_NORM.sub(r"\1input_layernorm", name): t for name, t in tensors.items()}


def _read(path: Path) -> dict[str, torch.Tensor]:
    if path.suffix != ".safetensors":
        return load_torch_file(path)
    with open_tensors(path, "pt") as handle:
        return {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118


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
    in_range = bool(((ids >= 0) & (ids < config.vocab_size)).all())
    if not in_range or len(ids.unique()) != len(ids):
        raise UserError(
            f"{KEY}: d2t of {folder} does not name {len(ids)} different tokens of the target's "
            f"{config.vocab_size}; its target is another"
        )
    members = tensors.get("t2d")
    if members is not None and not torch.equal(members.nonzero().flatten(), ids.sort().values):
        raise UserError(f"{KEY}: d2t and t2d of {folder} do not name the same tokens")
    return ids
