"""Drafts of the Hugging Face hub: `hub:<owner>/<name>`, at a commit once it is known."""

from __future__ import annotations

from pathlib import Path

from eagle3.data.sources import HUB
from eagle3.errors import UserError, first_line

WANTED = ("config.json", "*.safetensors", "*.safetensors.index.json")
WITHOUT_SAFETENSORS = ("pytorch_model*.bin", "pytorch_model.bin.index.json")


def hub_config(place: str, key: str) -> Path:
    """config.json of a draft on the hub, in a folder that is named by its commit.

    Raises UserError that names the configuration key `key`.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(place.removeprefix(HUB), "config.json"))
    except (OSError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as fault:
        raise UserError(
            f"{key}: cannot fetch config.json of {place}: {first_line(fault)}"
        ) from None


def draft_folder(place: str, key: str) -> Path:
    """The folder of a draft given as a folder or as hub:<owner>/<name>@<commit>.

    Raises UserError that names the configuration key `key`.
    """
    if not place.startswith(HUB):
        return Path(place)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    name, _, commit = place.removeprefix(HUB).partition("@")
    try:
        folder = Path(snapshot_download(name, revision=commit, allow_patterns=list(WANTED)))
        if not any(folder.glob("*.safetensors")):
            wanted = list(WITHOUT_SAFETENSORS)
            folder = Path(snapshot_download(name, revision=commit, allow_patterns=wanted))
        return folder
    except (OSError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as fault:
        raise UserError(f"{key}: cannot fetch {place}: {first_line(fault)}") from None
