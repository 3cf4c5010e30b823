"""What is known about a model and a dataset before anything runs.

Only small files are read; no weights are loaded and nothing is downloaded.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eagle3.checks import cached_folder
from eagle3.data.catalogue import CATALOGUE
from eagle3.data.row_files import LINES, SUFFIXES, files_of, rows_of
from eagle3.data.sources import unknown_place
from eagle3.errors import Foreign, UserError
from eagle3.files.hub import HUB, HUB_NAME
from eagle3.target_model.config import load_config
from eagle3.target_model.files import weight_bytes

PLACES = tuple(CATALOGUE)  # names of datasets
BYTES_PER_TOKEN = 4.5  # of a JSON Lines file of English chats


@dataclass(frozen=True)
class Model:
    """A target. `folder`: its files, those in the cache for a hub model; None if there are none."""

    place: str
    folder: Path | None
    text: Any  # its text configuration; None if it is not on this machine
    weight_bytes: int | None

    @property
    def name(self) -> str:
        return Path(self.place.removeprefix(HUB)).expanduser().resolve().name

    @property
    def local(self) -> bool:
        return not self.place.startswith(HUB)


@dataclass(frozen=True)
class Data:
    """A dataset; None for what is unknown without a download."""

    place: str
    rows: int | None
    tokens_per_row: float | None

    @property
    def name(self) -> str:
        return data_name(self.place)


def model_of(place: str) -> Model:
    """The target at `place`. Raises UserError unless it is a model directory or
    hub:<owner>/<name>."""
    if place.startswith(HUB):
        folder = cached_folder(place, None)
    else:
        folder = Path(place).expanduser()
        if not (folder / "config.json").is_file():
            hint = f"; for a model of the Hugging Face hub write {HUB}{place}"
            on_hub = hint if HUB_NAME.fullmatch(place) and not folder.exists() else ""
            raise UserError(
                f"{place} is not a Hugging Face model directory (no config.json){on_hub}"
            )
    if folder is None:
        return Model(place, None, None, None)
    return Model(place, folder, load_config(folder), weight_bytes(folder))


def data_of(place: str) -> Data:
    """The dataset at `place`. Raises UserError unless it is a file or folder of conversations, a
    name of the catalogue, or on the hub."""
    if place in CATALOGUE:
        return Data(place, CATALOGUE[place].rows, None)
    if place.startswith(HUB):
        return Data(place, None, None)
    path = Path(place).expanduser()
    if not path.exists():
        raise UserError(unknown_place(place))
    files = files_of(path)
    rows = sum(map(_rows, files))
    if not rows:
        raise UserError(f"{place} has no rows")
    uncompressed = all(file.suffix.lower() in (".json", *LINES) for file in files)
    size = sum(file.stat().st_size for file in files)
    return Data(place, rows, size / rows / BYTES_PER_TOKEN if uncompressed else None)


def data_name(place: str) -> str:
    """The name of a dataset; of a file, its name without suffixes such as .jsonl.gz."""
    if place in CATALOGUE:
        return place
    suffixes = "|".join(re.escape(suffix) for suffix in SUFFIXES)
    return re.sub(rf"({suffixes})+$", "", Path(place.removeprefix(HUB)).name, flags=re.IGNORECASE)


def _rows(path: Path) -> int:
    """Number of rows in a file, usable or not. Lines are counted without parsing them."""
    with Foreign(f"{path} cannot be read"):
        if path.suffix.lower() == ".parquet":
            from pyarrow.parquet import ParquetFile

            return int(ParquetFile(path).metadata.num_rows)
        if path.suffix.lower() in LINES:
            with open(path, "rb") as lines:
                return sum(1 for line in lines if line.strip())
        return sum(1 for _ in rows_of(path))
