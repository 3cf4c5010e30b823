"""What is known of a model and of a dataset before anything runs: small files are looked at, no
weights, no download."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eagle3.checks import cached_folder
from eagle3.data.catalogue import CATALOGUE
from eagle3.data.sources import HUB, SUFFIXES, unknown_place
from eagle3.errors import Foreign, UserError
from eagle3.target.config import load_config
from eagle3.target.files import INDEX
from eagle3.workflow.external import HUB_NAME

PLACES = tuple(CATALOGUE)  # names of datasets
BYTES_PER_TOKEN = 4.5  # of a JSON Lines file of English chats


@dataclass(frozen=True)
class Model:
    """A target. `folder`: its files, of a hub model those in the cache; None if there are none."""

    place: str
    folder: Path | None
    text: Any  # its text configuration, None if it is not at hand
    weight_bytes: int | None

    @property
    def name(self) -> str:
        return Path(self.place.removeprefix(HUB)).expanduser().resolve().name

    @property
    def local(self) -> bool:
        return not self.place.startswith(HUB)


@dataclass(frozen=True)
class Data:
    """A dataset; None where nothing is known without a download."""

    place: str
    rows: int | None
    tokens_per_row: float | None

    @property
    def name(self) -> str:
        if self.place in CATALOGUE:
            return self.place
        path = Path(self.place.removeprefix(HUB))
        return path.stem if path.suffix in SUFFIXES else path.name


def model_of(place: str) -> Model:
    """Raises UserError if it is neither a model directory nor hub:<owner>/<name>."""
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
    return Model(place, folder, load_config(folder), _weight_bytes(folder))


def _weight_bytes(folder: Path) -> int | None:
    """Bytes of the weights, by their files or their index."""
    sizes = [path.stat().st_size for path in folder.glob("*.safetensors")]
    index = folder / INDEX
    if index.is_file():
        with Foreign(f"{index} is no index of weights"):
            return int(json.loads(index.read_text(encoding="utf-8"))["metadata"]["total_size"])
    return sum(sizes) or None


def data_of(place: str) -> Data:
    """Raises UserError if it is no file of conversations, no name and not of the hub."""
    if place in CATALOGUE:
        return Data(place, CATALOGUE[place].rows, None)
    if place.startswith(HUB):
        return Data(place, None, None)
    path = Path(place).expanduser()
    if not path.is_file():
        raise UserError(unknown_place(place))
    if path.suffix not in SUFFIXES:
        raise UserError(f"{place} must be a file of {', '.join(SUFFIXES)}")
    rows = _rows(path)
    if not rows:
        raise UserError(f"{place} has no row")
    ratio = None if path.suffix == ".parquet" else path.stat().st_size / rows / BYTES_PER_TOKEN
    return Data(place, rows, ratio)


def _rows(path: Path) -> int:
    """Rows of a file, usable or not."""
    with Foreign(f"{path} cannot be read"):
        if path.suffix == ".parquet":
            from pyarrow.parquet import ParquetFile

            return int(ParquetFile(path).metadata.num_rows)
        if path.suffix == ".json":
            found = json.loads(path.read_text(encoding="utf-8"))
            return len(found) if isinstance(found, list) else 1
        with open(path, "rb") as lines:
            return sum(1 for line in lines if line.strip())
