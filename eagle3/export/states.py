"""Captured states in the format of speculators, for use with that project.

    OUT/hidden_states/hs_17.safetensors    token_ids [L], hidden_states [L, C + 1, H]
    OUT/                                   the dataset of token ids and masks, as it prepares it
    OUT/d2t-32000.npy, t2d-32000.npy       the vocabulary of the draft; its trainer finds it there

Rows that are not stored are zeros, and no mask selects them. A mask is 1 where there is a state
that predicts the next token, so not on the last token of an answer; that one is the label of the
token before, whose mask is 1.

The last state is written as before the final norm, up to a factor: the norm is the same for every
multiple.
"""

from __future__ import annotations

import shutil
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

SAME = 0.01  # allowed relative error after the norm: twice the rounding in half precision


@dataclass(frozen=True)
class Counts:
    """Numbers of documents that were written."""

    train: int  # documents
    held_out: int
    layers: tuple[int, ...]  # as vLLM counts them: inputs

    @property
    def train_ratio(self) -> float:
        """The ratio for the trainer of speculators, which trains on the first part of a dataset and
        rounds its size down."""
        return min((self.train + 0.5) / max(self.train + self.held_out, 1), 1.0)


def export_states(run: Run, base: Path, target: Path, out: Path) -> Counts:
    """Write the states of a run, held-out ones last. `base`: the folder with its results/.

    Raises UserError if `out` exists, a shard is missing or damaged, or the target's final norm has
    no inverse.
    """
    if out.exists():
        raise UserError(f"{out} exists; name a new folder")
    trust_remote_code = run.config.target.trust_remote_code
    key = run.config.target.final_norm_key
    gain = read_final_norm(TargetWeights(target), load_config(target, trust_remote_code), key)
    unnormed = _Unnormed(gain, load_final_norm(target, key, torch.float32, trust_remote_code))
    unfinished = out.with_name(f".{out.name}.unfinished")
    if unfinished.exists():  # of a call that was stopped, perhaps with another run
        shutil.rmtree(unfinished)
    (unfinished / "hidden_states").mkdir(parents=True)
    ids: list[np.ndarray] = []
    masks: list[np.ndarray] = []
    training, layers = 0, [-1]
    for split, shards in (("train", run.shards), ("eval", run.held_out)):
        for shard in shards:
            for tensors, mask, layer_ids in _documents(run, base, split, shard, unnormed):
                save_file(tensors, unfinished / "hidden_states" / f"hs_{len(ids)}.safetensors")
                ids.append(tensors["token_ids"].numpy())
                masks.append(mask)
                layers = layer_ids
        training = len(ids) if split == "train" else training
    if not ids:
        raise UserError(f"run {run.config.run} has no document with states")
    _write_dataset(ids, masks, unfinished)
    _write_vocabulary(base / run.paths.vocab, unfinished)
    unfinished.rename(out)
    return Counts(training, len(ids) - training, tuple(layer + 1 for layer in layers))


class _Unnormed:
    """The inverse of a final norm, up to a factor that does not affect the norm."""

    def __init__(self, gain: torch.Tensor, norm: torch.nn.Module) -> None:
        self.gain, self.norm, self.checked = gain, norm, False

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        """[R, H] after the norm -> [R, H] before it. Raises UserError if the norm is not an RMSNorm
        with this gain."""
        float_states = states.float()
        before = torch.where(self.gain == 0, 0.0, float_states / self.gain)
        if not self.checked and len(states):
            renormed = self.norm(before)
            error = (renormed - float_states).norm(dim=-1) / float_states.norm(dim=-1).clamp_min(
                1e-20
            )
            if float(error.median()) > SAME:
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
    path = run.stored(run.paths.states(split, shard))
    prefix = run.config.resources.storage_prefix
    states = FeatureShard(address(path) if prefix else base / path, tokens)
    needed, layers = states.layout.needed, states.manifest.counts["aux_layers"]
    for document in np.flatnonzero(needed.kept).tolist():
        ids, taught = tokens.kept_ids(document), needed.taught(document)
        stored = states.read(document)
        aux = stored["aux"].unflatten(1, (len(layers), -1))
        hidden_states = aux.new_zeros(len(ids), len(layers) + 1, aux.shape[-1])
        hidden_states[: len(aux), :-1] = aux
        hidden_states[torch.from_numpy(taught), -1] = unnormed(stored["last"])
        mask = np.zeros(len(ids), dtype=np.int64)
        mask[taught] = 1
        yield {"token_ids": torch.from_numpy(ids), "hidden_states": hidden_states}, mask, layers


def _write_dataset(ids: list[np.ndarray], masks: list[np.ndarray], folder: Path) -> None:
    """Write token ids and masks as a dataset of the library `datasets`."""
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
    """Write the draft's vocabulary, if the run has one, as the trainer names it."""
    if path.is_file():
        mapping, _ = read_mapping(path)
        size = len(mapping.d2t)
        np.save(folder / f"d2t-{size}.npy", mapping.d2t)
        np.save(folder / f"t2d-{size}.npy", mapping.t2d)
