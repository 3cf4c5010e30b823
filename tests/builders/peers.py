"""Hidden states in the forms of other projects, from facts about their files.

SpecForge's writer needs GPUs and SGLang, so its format is written here with torch.save: names,
types and shapes as its prepare_hidden_states.py has them, its padding and its folders included.
The files of speculators are safetensors that vLLM writes and it moves; its dataset is made by
`datasets`, as it does.
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
import torch
from safetensors.torch import save_file

from eagle3.engines.hf import HFTarget
from eagle3.tokens.shards import TokenShard

GROUP = 2000  # files in a folder of SpecForge


@dataclass(frozen=True)
class Captured:
    """A document and its states, as an engine returns them."""

    number: int
    ids: np.ndarray  # int64 [L]
    mask: np.ndarray  # int64 [L]
    aux: torch.Tensor  # [L, C * H]
    last: torch.Tensor  # [L, H], behind the final norm
    before: torch.Tensor  # [L, H], before it


def captured(
    target: HFTarget, number: int, ids: np.ndarray, mask: np.ndarray, padding: int = 0
) -> Captured:
    """A document through the target, with `padding` zeros behind it that are run as well."""
    ids = np.concatenate([ids, np.zeros(padding)]).astype(np.int64)
    mask = np.concatenate([mask, np.zeros(padding)]).astype(np.int64)
    before: list[torch.Tensor] = []
    hook = target.body.norm.register_forward_pre_hook(lambda _, inputs: before.append(inputs[0][0]))
    try:
        aux, last = target.flat_states([torch.from_numpy(ids)])
    finally:
        hook.remove()
    # copies, which tests may change
    return Captured(number, ids, mask, aux.clone(), last.clone(), before[0].clone())


def documents_of(shards: Sequence[TokenShard]) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Ids and masks of the documents of token shards whose rows have numbers for names."""
    found = {}
    for shard in shards:
        for place, name in enumerate(shard.row_ids):
            inside = slice(*shard.doc_offsets[[place, place + 1]])
            found[int(name)] = shard.input_ids[inside], shard.loss_mask[inside]
    return found


def write_specforge(folder: Path, document: Captured, compress: bool = False) -> Path:
    """A file of SpecForge."""
    first = document.number // GROUP * GROUP
    path = folder / f"rows_{first}-{first + GROUP}" / f"data_{document.number}.ckpt"
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {
        "input_ids": torch.from_numpy(document.ids.copy()),
        "loss_mask": torch.from_numpy(document.mask.copy()),
        "aux_hidden_state": document.aux.cpu().clone()[None],
        "hidden_state": document.last.cpu().clone()[None],
    }
    if not compress:
        torch.save(record, path)
        return path
    packed = path.with_name(f"{path.name}.gz")
    with gzip.open(packed, "wb", compresslevel=6) as file:
        torch.save(record, file)
    return packed


def write_speculators(folder: Path, documents: Sequence[Captured], layers: int = 3) -> None:
    """A prepared dataset of speculators, and the states of its rows: row n is document n."""
    rows = [
        {"input_ids": d.ids.tolist(), "loss_mask": d.mask.tolist(), "seq_len": len(d.ids)}
        for d in documents
    ]
    table = datasets.Dataset.from_list(rows)
    table.set_format(type="torch")
    table.save_to_disk(str(folder))
    (folder / "hidden_states").mkdir()
    for row, document in enumerate(documents):
        states = torch.cat([document.aux.unflatten(1, (layers, -1)), document.before[:, None]], 1)
        tensors = {"token_ids": torch.from_numpy(document.ids.copy()), "hidden_states": states}
        save_file(tensors, folder / "hidden_states" / f"hs_{row}.safetensors")
