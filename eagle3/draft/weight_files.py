"""The files of a published draft: in a folder, or in `hub:<owner>/<name>` of the Hugging Face hub,
at a commit once it is known. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from eagle3.errors import UserError
from eagle3.files.hub import HUB, fetched_folder
from eagle3.target_model.files import indexed_files

KEY = "train.warm_start"
SAFETENSORS, TORCH = "model.safetensors", "pytorch_model.bin"
TORCH_ENDINGS = (".bin", ".pt", ".pth")
CONFIG = "config.json"
WANTED = (CONFIG, "*.safetensors", "*.safetensors.index.json")
WITHOUT_SAFETENSORS = ("pytorch_model*.bin", "pytorch_model.bin.index.json")


def draft_folder(place: str) -> Path:
    """The folder of a draft given as a folder or as hub:<owner>/<name>@<commit>.

    Raises UserError if it cannot be fetched.
    """
    if not place.startswith(HUB):
        return Path(place)
    name, _, commit = place.partition("@")
    folder = fetched_folder(name, KEY, commit, WANTED)
    if any(folder.glob("*.safetensors")):
        return folder
    return fetched_folder(name, KEY, commit, WITHOUT_SAFETENSORS)


def config_of(place: Path) -> Path:
    """config.json of the draft at `place`: a folder, or a file with its weights."""
    return (place.parent if place.is_file() else place) / CONFIG


def weight_files(place: Path) -> list[Path]:
    """Files with the weights of the draft at `place`, safetensors before torch's own format.

    If there is an index, the files that it names. Raises UserError if there are none.
    """
    if place.is_file():
        if place.suffix not in (".safetensors", *TORCH_ENDINGS):
            raise UserError(
                f"{KEY}: {place} is no file of weights (.safetensors, {', '.join(TORCH_ENDINGS)})"
            )
        return [place]
    for name, pattern in ((SAFETENSORS, "*.safetensors"), (TORCH, TORCH)):
        index = place / f"{name}.index.json"
        if index.is_file():
            names = set(indexed_files(index, KEY, Path(name).suffix).values())
            files = [place / file_name for file_name in sorted(names)]
        else:
            files = sorted(place.glob(pattern))
        if missing := [file.name for file in files if not file.is_file()]:
            raise UserError(
                f"{KEY}: {place} lacks {', '.join(missing)}, which {index.name} names; download "
                "the draft again"
            )
        if files:
            return files
    raise UserError(f"{KEY}: {place} has neither *.safetensors nor {TORCH}")
