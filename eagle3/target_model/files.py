"""The location of a target, and its small files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from eagle3.errors import Foreign, UserError, first_line
from eagle3.files.hub import HUB, cached_file, fetched_folder

INDEX = "model.safetensors.index.json"
CARD = "README.md"
DOWNLOADED = ["*.json", "*.py", "*.safetensors", "*.jinja", "*.model", "*.txt", CARD]
VOCABULARIES = ("tokenizer.json", "vocab.json", "*.model", "*.tiktoken")
TEMPLATE_FILES = ("chat_template.jinja", "chat_template.json", "additional_chat_templates")
TOKENIZER_FILES = (
    *(*VOCABULARIES, "vocab.txt", "merges.txt", "added_tokens.json", "special_tokens_map.json"),
    *("tokenizer_config.json", "generation_config.json", *TEMPLATE_FILES),
    f"{TEMPLATE_FILES[-1]}/*",
)


def check_length(max_length: int, context: int) -> None:
    """Raise UserError if documents would be longer than the target can read."""
    if max_length > context:
        raise UserError(
            f"tokens.max_length is {max_length}, beyond the target's context of {context} tokens "
            f"(max_position_embeddings); use at most {context}"
        )


def resolve_target(location: str, revision: str | None = None, weights: bool = True) -> Path:
    """The local directory of a target given as a directory or hub:<owner>/<name>.

    Without `weights`, a hub model's tensors are not fetched. Raises UserError if it is not found.
    """
    if not location.startswith(HUB):
        path = Path(location)
        if not (path / "config.json").is_file():
            raise UserError(
                f"target.model: {location} is not a Hugging Face model directory (no config.json); "
                "give a directory or hub:<owner>/<name>"
            )
        return path
    patterns = [p for p in DOWNLOADED if weights or p != "*.safetensors"]
    copies = ("consolidated*", "original/*")  # of the weights, in other layouts
    return fetched_folder(location, "target.model", revision, patterns, copies)


def card_of(location: str, revision: str | None = None) -> Path | None:
    """The model card of a target if it is on this machine; nothing is fetched."""
    if location.startswith(HUB):
        return cached_file(location, CARD, revision)
    path = Path(location, CARD)
    return path if path.is_file() else None


def read_object(path: Path, key: str = "target.model") -> dict[str, Any]:
    """The object in a small JSON file of the model that the configuration's `key` names. Raises
    UserError if it is missing or holds no object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as fault:
        raise UserError(f"{key}: {path}: {fault.strerror}") from None
    except (ValueError, RecursionError) as fault:
        raise UserError(f"{key}: {path} is not JSON ({first_line(fault)})") from None
    if not isinstance(content, dict):
        raise UserError(f"{key}: {path} does not hold a JSON object")
    return content


def indexed_files(
    path: Path, key: str = "target.model", ending: str = ".safetensors"
) -> dict[str, str]:
    """File name of each tensor in the index of the model that the configuration's `key` names.

    Raises UserError if it holds anything but names of files with this ending in the same folder.
    """
    weight_map = read_object(path, key).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(f"{key}: {path} has no weight_map")
    for tensor, name in weight_map.items():
        is_file_name = isinstance(name, str) and name == Path(name).name and "\0" not in name
        if not is_file_name or not name.endswith(ending):
            raise UserError(
                f"{key}: {path} places {tensor} in {name!r}; must be the name of a {ending} file "
                "of the same directory"
            )
    return weight_map


def weight_bytes(folder: Path) -> int | None:
    """Bytes of a target's weights, from their index or their files; None if neither is there.

    Raises UserError if the index is damaged.
    """
    index = folder / INDEX
    if index.is_file():
        with Foreign(f"{index} is no index of weights"):
            return int(read_object(index)["metadata"]["total_size"])
    return sum(path.stat().st_size for path in folder.glob("*.safetensors")) or None
