"""Drafts of the Hugging Face hub: `hub:<owner>/<name>`, at a commit once it is known."""

from __future__ import annotations

from pathlib import Path

from eagle3.draft.weight_files import KEY
from eagle3.files.hub import HUB, fetched_folder

WANTED = ("config.json", "*.safetensors", "*.safetensors.index.json")
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
