"""The files of states in a folder of another project. Names and sizes alone: no file is opened, so
the DAG is planned within seconds for hundreds of thousands of them.

    SpecForge     rows_0-2000/data_17.ckpt, or data_17.ckpt.gz     documents are numbered in order
    speculators   hs_17.safetensors                                row 17 of its Arrow dataset
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eagle3.errors import UserError

KEY = "hidden_states.source.path"
PEERS = {"specforge": "SpecForge", "speculators": "speculators"}  # display names of the kinds
GROUP = re.compile(r"rows_(\d+)-(\d+)")
NAMES = {
    "specforge": re.compile(r"data_(\d+)\.ckpt(\.gz)?"),
    "speculators": re.compile(r"hs_(\d+)\.safetensors"),
}
EXAMPLES = {"specforge": "rows_*/data_*.ckpt", "speculators": "hs_*.safetensors"}
STATES = "hidden_states"  # folder of the states inside a prepared dataset of speculators
PREPARED = "dataset_info.json"  # in every dataset on the disk
LARGEST = 2**53  # numbers in file names are smaller, as indices of a dataset are


@dataclass(frozen=True)
class Listing:
    """The files of a folder, by the number of their document, ascending."""

    folder: Path
    numbers: np.ndarray  # int64 [N]
    names: list[str]  # [N], relative to the folder
    expected: int  # documents that the folder appears to be meant for
    digest: str  # of names and sizes

    def __len__(self) -> int:
        return len(self.names)


def list_files(kind: str, place: Path) -> Listing:
    """The files of states in a folder, in the order of their numbers (not of their names).

    Raises UserError if there are none, or two of one number.
    """
    folder = states_folder(kind, place)
    file_of: dict[int, tuple[str, int]] = {}
    groups = [0]
    for name, size in _list_entries(kind, folder, groups):
        match = NAMES[kind].fullmatch(Path(name).name)
        number = int(match[1]) if match else LARGEST
        if number >= LARGEST:
            continue
        earlier = file_of.get(number)
        if earlier is not None and _without_gz(earlier[0]) != _without_gz(name):
            raise UserError(
                f"{KEY}: document {number} is in {earlier[0]} and in {name} of {folder}; keep one"
            )
        if earlier is None or name.endswith(".ckpt"):  # not a compressed twin
            file_of[number] = name, size
    if not file_of:
        raise UserError(
            f"config: {KEY} is {str(place)!r}, which holds no {EXAMPLES[kind]} of {PEERS[kind]}"
        )
    numbers = np.array(sorted(file_of), dtype=np.int64)
    total = hashlib.sha256()
    for number in numbers.tolist():
        total.update("{} {}\n".format(*file_of[number]).encode())
    # SpecForge makes all folders before it writes the first document
    expected = max(int(numbers[-1]), *groups) + 1
    names = [file_of[number][0] for number in numbers.tolist()]
    return Listing(folder, numbers, names, expected, total.hexdigest()[:16])


def states_folder(kind: str, place: Path) -> Path:
    """The folder of the states: speculators keeps it inside the prepared dataset."""
    inside = kind == "speculators" and (place / PREPARED).is_file() and (place / STATES).is_dir()
    return place / STATES if inside else place


def dataset_folder(place: Path, configured: Path | None) -> Path:
    """The prepared dataset that the states of speculators belong to.

    Raises UserError if there is none.
    """
    candidates = [configured] if configured else [place, place.parent]
    for folder in candidates:
        if (folder / PREPARED).is_file():
            return folder
    raise UserError(
        f"config: hidden_states.source.dataset: {' and '.join(map(str, candidates))} hold no "
        f"dataset of `speculators prepare-data` ({PREPARED}); its token ids and masks belong to "
        "the states, so name its folder"
    )


def dataset_digest(folder: Path) -> str:
    """Digest of a prepared dataset: its fingerprint, and names and sizes of its tables."""
    total = hashlib.sha256()
    for path in sorted(folder.glob("*")):
        if path.suffix == ".arrow":
            total.update(f"{path.name} {path.stat().st_size}\n".encode())
        elif path.name == "state.json":  # names a fingerprint of the content
            total.update(path.read_bytes())
    return total.hexdigest()[:16]


def _list_entries(kind: str, folder: Path, groups: list[int]) -> Iterator[tuple[str, int]]:
    """Names, relative to the folder, and sizes of its files. The first numbers of SpecForge's
    groups are added to `groups`."""
    try:
        for entry in os.scandir(folder):
            group = GROUP.fullmatch(entry.name) if kind == "specforge" else None
            if group and entry.is_dir():
                if int(group[1]) < LARGEST:
                    groups.append(int(group[1]))
                for inner in os.scandir(entry.path):
                    yield f"{entry.name}/{inner.name}", inner.stat().st_size
            elif entry.is_file():
                yield entry.name, entry.stat().st_size
    except OSError as fault:
        raise UserError(f"{KEY}: {fault.filename}: {fault.strerror}") from None


def _without_gz(name: str) -> str:
    return name.removesuffix(".gz")
