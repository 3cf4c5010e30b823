"""The index of an import: which file holds which document, in training order, and which documents
are held out. It replaces rows.jsonl and is as fixed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eagle3.errors import UserError
from eagle3.files.artifact import NOT_OURS, REMAKE, Manifest
from eagle3.files.tensor_file import load_tensors, save_tensors
from eagle3.imports.document import PeerFiles
from eagle3.imports.listing import Listing, states_folder
from eagle3.imports.specforge import SpecForgeFiles
from eagle3.run import Run

KIND = "dataset"  # of the manifest: it replaces the dataset of other runs


@dataclass(frozen=True)
class ImportIndex:
    """Documents in order."""

    numbers: np.ndarray  # int64 [N]
    held_out: np.ndarray  # bool [N]
    names: list[str]  # [N], of files, relative to their folder
    manifest: Manifest

    def of_shard(self, split: str, shard: int, size: int) -> dict[int, str]:
        """Numbers and files of a shard's documents, in order."""
        rows = np.flatnonzero(self.held_out == (split == "eval"))
        shard_rows = rows[shard * size : (shard + 1) * size].tolist()
        return {int(self.numbers[row]): self.names[row] for row in shard_rows}


def write_index(
    path: Path, listing: Listing, order: np.ndarray, held_out: np.ndarray, manifest: Manifest
) -> Manifest:
    """Write the index. `order`: positions in the listing."""
    names = json.dumps([listing.names[position] for position in order.tolist()]).encode()
    tensors = {
        "numbers": listing.numbers[order],
        "held_out": held_out,
        "names": np.frombuffer(names, dtype=np.uint8),
    }
    return save_tensors(path, tensors, manifest)


def read_index(path: Path, settings_digest: str | None = None) -> ImportIndex:
    """Read the index. Raises UserError if it is missing, damaged or of other settings."""
    tensors, manifest = load_tensors(path, KIND, settings_digest)
    try:
        names = json.loads(tensors["names"].tobytes())
        index = ImportIndex(tensors["numbers"], tensors["held_out"], names, manifest)
        valid = (
            index.numbers.dtype == np.int64
            and index.held_out.dtype == np.bool_
            and index.numbers.shape == index.held_out.shape == (len(names),)
            and all(isinstance(name, str) for name in names)
        )
    except NOT_OURS:
        valid = False
    if not valid:
        raise UserError(f"{path}: is not an index of imported documents: {REMAKE}")
    return index


def open_files(kind: str, folder: Path, names: Mapping[int, str], dataset: str | None) -> PeerFiles:
    """The documents of a folder. `dataset`: folder of the prepared one, for kind speculators.
    Raises UserError if it cannot be read."""
    if kind == "specforge":
        return SpecForgeFiles(folder, names)
    from eagle3.imports.speculators import SpeculatorsFiles

    return SpeculatorsFiles(folder, names, Path(str(dataset)))


def files_of_shard(run: Run, split: str, shard: int) -> tuple[ImportIndex, PeerFiles, list[int]]:
    """The index of a run's documents, the files of a shard, and the numbers of its documents in
    order. Raises UserError as `read_index` and `open_files` do."""
    source = run.states_from
    index = read_index(Path(run.paths.import_index), run.settings["dataset"].digest)
    names = index.of_shard(split, shard, run.config.dataset.rows_of_shard(split))
    folder = states_folder(source.kind, Path(source.place))
    return index, open_files(source.kind, folder, names, source.dataset), list(names)
