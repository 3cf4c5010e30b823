"""Captured states in the form of speculators, for whoever goes on with that project.

    OUT/hidden_states/hs_17.safetensors    token_ids [L], hidden_states [L, C + 1, H]
    OUT/                                   the dataset of token ids and masks, as it prepares it
    OUT/d2t-32000.npy, t2d-32000.npy       the vocabulary of the draft; its trainer finds it there

Rows that are not stored here cannot be given: they are zeros, and no mask asks for them. A mask
is 1 where the state is there that predicts the next token, so the last token of an answer has
none; it is the label of the token before, which has one.

The last state is written as it is before the final norm, divided by its size: a norm gives the
same of every multiple.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from eagle3.errors import UserError
from eagle3.run import Run
from eagle3.store.byte_source import address
from eagle3.store.reader import FeatureShard
from eagle3.target_model.config import load_config
from eagle3.target_model.final_norm import load_final_norm
from eagle3.target_model.reader import read_final_norm
from eagle3.target_model.weights import TargetWeights
from eagle3.tokens.shards import read_token_shard
from eagle3.tokens.vocab import read_mapping

SAME = 0.01  # relative error of a state behind the norm: rounding in half precision is half of it


@dataclass(frozen=True)
class Counts:
    """What was written."""

    train: int  # documents
    held_out: int
    layers: tuple[int, ...]  # as vLLM counts them: inputs

    @property
    def train_ratio(self) -> float:
        """For the trainer of speculators, which takes the first part of a dataset and rounds its
        size down."""
        return min((self.train + 0.5) / max(self.train + self.held_out, 1), 1.0)


def export_states(run: Run, base: Path, target: Path, out: Path) -> Counts:
    """Write the states of a run, held-out ones last. `base`: the folder with its results/.

    Raises UserError if `out` exists, a shard is missing or damaged, or the target's final norm has
    no inverse.
    """
    if out.exists():
        raise UserError(f"{out} exists; name a new folder")
    trusted = run.config.target.trust_remote_code
    key = run.config.target.final_norm_key
    gain = read_final_norm(TargetWeights(target), load_config(target, trusted), key)
    unnormed = _Unnormed(gain, load_final_norm(target, key, torch.float32, trusted))
    beside = out.with_name(f".{out.name}.unfinished")
    (beside / "hidden_states").mkdir(parents=True, exist_ok=True)
    ids: list[np.ndarray] = []
    masks: list[np.ndarray] = []
    training, layers = 0, [-1]
    for split, shards in (("train", run.shards), ("eval", run.held_out)):
        for shard in shards:
            for tensors, mask, named in _documents(run, base, split, shard, unnormed):
                save_file(tensors, beside / "hidden_states" / f"hs_{len(ids)}.safetensors")
                ids.append(tensors["token_ids"].numpy())
                masks.append(mask)
                layers = named
        training = len(ids) if split == "train" else training
    if not ids:
        raise UserError(f"run {run.config.run} has no document with states")
    _write_dataset(ids, masks, beside)
    _write_vocabulary(base / run.paths.vocab, beside)
    beside.rename(out)
    return Counts(training, len(ids) - training, tuple(layer + 1 for layer in layers))


class _Unnormed:
    """The inverse of a final norm, up to a factor that the norm does not see."""

    def __init__(self, gain: torch.Tensor, norm: torch.nn.Module) -> None:
        self.gain, self.norm, self.checked = gain, norm, False

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        """[R, H] behind the norm -> [R, H] before it. Raises UserError if the norm is no RMSNorm
        of this gain."""
        wide = states.float()
        before = torch.where(self.gain == 0, 0.0, wide / self.gain)
        if not self.checked and len(states):
            again = self.norm(before)
            apart = (again - wide).norm(dim=-1) / wide.norm(dim=-1).clamp_min(1e-20)
            if float(apart.median()) > SAME:
                raise UserError(
                    f"the target's final norm is a {type(self.norm).__name__}, which cannot be "
                    "undone, and speculators wants the state before it"
                )
            self.checked = True
        return before.to(states.dtype)


def _documents(
    run: Run, base: Path, split: str, shard: int, unnormed: _Unnormed
) -> Iterator[tuple[dict[str, torch.Tensor], np.ndarray, list[int]]]:
    """Tensors of the file, mask int64 [L], and layers, of every document with states."""
    tokens = read_token_shard(base / run.paths.tokens(split, shard))
    place = run.stored(run.paths.states(split, shard))
    prefix = run.config.resources.storage_prefix
    states = FeatureShard(address(place) if prefix else base / place, tokens)
    needed, layers = states.layout.needed, states.manifest.counts["aux_layers"]
    for document in np.flatnonzero(needed.kept).tolist():
        ids, taught = tokens.kept_ids(document), needed.taught(document)
        read = states.read(document)
        aux = read["aux"].unflatten(1, (len(layers), -1))
        whole = aux.new_zeros(len(ids), len(layers) + 1, aux.shape[-1])
        whole[: len(aux), :-1] = aux
        whole[torch.from_numpy(taught), -1] = unnormed(read["last"])
        mask = np.zeros(len(ids), dtype=np.int64)
        mask[taught] = 1
        yield {"token_ids": torch.from_numpy(ids), "hidden_states": whole}, mask, layers


def _write_dataset(ids: list[np.ndarray], masks: list[np.ndarray], folder: Path) -> None:
    """The rows of token ids and masks, as `datasets` saves them."""
    import datasets
    import pyarrow as pa

    lengths = [len(row) for row in ids]
    offsets = pa.array(np.cumsum([0, *lengths]), pa.int64())
    columns = {
        "input_ids": pa.LargeListArray.from_arrays(offsets, pa.array(np.concatenate(ids))),
        "loss_mask": pa.LargeListArray.from_arrays(offsets, pa.array(np.concatenate(masks))),
        "seq_len": pa.array(lengths, pa.int64()),
    }
    table = datasets.Dataset(pa.table(columns))
    table.set_format(type="torch")  # its reader compares tensors
    table.save_to_disk(str(folder))


def _write_vocabulary(path: Path, folder: Path) -> None:
    """The draft's vocabulary, if the run has one, under the names that the trainer looks for."""
    if path.is_file():
        mapping, _ = read_mapping(path)
        size = len(mapping.d2t)
        np.save(folder / f"d2t-{size}.npy", mapping.d2t)
        np.save(folder / f"t2d-{size}.npy", mapping.t2d)
