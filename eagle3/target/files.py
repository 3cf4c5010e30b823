"""Where a target lies and what its small files say: configuration, tokenizer, stop tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from eagle3.data.sources import HUB
from eagle3.errors import Foreign, UserError, first_line

INDEX = "model.safetensors.index.json"
WANTED = ["*.json", "*.py", "*.safetensors", "*.jinja", "*.model", "*.txt"]
# more than any model has: a configuration that lies would cost memory before a tensor is read
MOST = {"vocab_size": 2**24, "hidden_size": 2**20, "num_hidden_layers": 2**14}
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
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

    Without `weights` a hub model's tensors are not fetched. Raises UserError if there is none.
    """
    if not location.startswith(HUB):
        path = Path(location)
        if not (path / "config.json").is_file():
            raise UserError(
                f"target.model: {location} is not a Hugging Face model directory (no config.json); "
                "give a directory or hub:<owner>/<name>"
            )
        return path
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    wanted = [p for p in WANTED if weights or p != "*.safetensors"]
    try:
        return Path(
            snapshot_download(
                location.removeprefix(HUB),
                revision=revision,
                allow_patterns=wanted,
                # second copies of the weights in other layouts
                ignore_patterns=["consolidated*", "original/*"],
            )
        )
    except (OSError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as fault:
        raise UserError(
            f"target.model: cannot fetch {location} (revision {revision}): {first_line(fault)}"
        ) from None


def load_whole_config(directory: Path, trust_remote_code: bool = False) -> Any:
    """The target's configuration as it is, with every part of a multimodal model.

    Raises UserError if transformers cannot read it.
    """
    from transformers import AutoConfig

    check_code(directory, "config.json", trust_remote_code)
    with Foreign(f"target.model: cannot read the configuration of {directory}"):
        return AutoConfig.from_pretrained(directory, trust_remote_code=trust_remote_code)


def load_config(directory: Path, trust_remote_code: bool = False) -> Any:
    """The target's text configuration (wrappers of multimodal models are looked through).

    Raises UserError if transformers cannot read it.
    """
    whole = load_whole_config(directory, trust_remote_code)
    with Foreign(f"target.model: {directory} has no single text model"):
        text = whole.get_text_config(decoder=True)
    if text is not whole and getattr(whole, "tie_word_embeddings", False):
        text.tie_word_embeddings = True  # a wrapper holds the head, so it decides
    for name, most in MOST.items():
        figure = getattr(text, name, None)
        if type(figure) is not int or not 0 < figure <= most:
            raise UserError(
                f"target.model: {directory / 'config.json'} has {name} = {figure!r}; must be a "
                f"whole number from 1 to {most}"
            )
    return text


def check_code(directory: Path, name: str, trusted: bool) -> None:
    """Raise UserError if a file of a model asks for code beside the weights that nobody has
    trusted and that transformers has no class of its own for."""
    found = read_object(directory / name)
    if trusted or not found.get("auto_map"):
        return
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if found.get("model_type") not in CONFIG_MAPPING:
        raise UserError(
            f"target.model: {directory / name} wants to run code of its own (auto_map), since "
            "transformers does not know the model; read that code, then set "
            "target.trust_remote_code to true, or use another model"
        )


def read_object(path: Path) -> dict[str, Any]:
    """A small JSON file of a model. Raises UserError if it is missing or holds no object."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as fault:
        raise UserError(f"target.model: {path}: {fault.strerror}") from None
    except (ValueError, RecursionError) as fault:
        raise UserError(f"target.model: {path} is not JSON ({first_line(fault)})") from None
    if not isinstance(found, dict):
        raise UserError(f"target.model: {path} does not hold a JSON object")
    return found


def indexed_files(path: Path) -> dict[str, str]:
    """File name of each tensor of an index.

    Raises UserError if it holds anything but names of safetensors files beside it.
    """
    found = read_object(path).get("weight_map")
    if not isinstance(found, dict) or not found:
        raise UserError(f"target.model: {path} has no weight_map")
    for tensor, name in found.items():
        plain = isinstance(name, str) and name == Path(name).name and "\0" not in name
        if not plain or not name.endswith(".safetensors"):
            raise UserError(
                f"target.model: {path} places {tensor} in {name!r}; must be the name of a "
                "safetensors file of the same directory"
            )
    return found


def load_tokenizer(directory: Path, trust_remote_code: bool = False) -> Any:
    """The target's tokenizer, with its chat template."""
    from transformers import AutoTokenizer

    for name in ("tokenizer.json", "vocab.json"):
        if (directory / name).is_file():
            _check_ids(directory / name)
    described, what = directory / "tokenizer_config.json", f"the tokenizer of {directory}"
    if not trust_remote_code and described.is_file() and read_object(described).get("auto_map"):
        what += ", whose own code (auto_map) runs only with target.trust_remote_code true"
    with Foreign(f"target.model: cannot load {what}"):
        return AutoTokenizer.from_pretrained(directory, trust_remote_code=trust_remote_code)


def _check_ids(path: Path) -> None:
    """Raise UserError for an id beyond any vocabulary: the tokenizers library makes a table of all
    ids below the largest, which for one of 2**31 takes minutes and tens of gigabytes."""
    found = read_object(path)
    model = found.get("model")
    vocab = model.get("vocab") if isinstance(model, dict) else found
    ids = vocab.values() if isinstance(vocab, dict) else ()
    largest = max((number for number in ids if isinstance(number, int)), default=0)
    if largest > MOST["vocab_size"]:
        raise UserError(
            f"target.model: {path} has a token of id {largest}, beyond {MOST['vocab_size']}"
        )


def stop_ids(directory: Path, config: Any) -> list[int]:
    """Tokens that end generation: generation_config.eos_token_id, else the configuration's.

    Raises UserError if they are no token ids.
    """
    from transformers import GenerationConfig

    found = None
    if (directory / "generation_config.json").is_file():
        with Foreign(f"target.model: cannot read {directory / 'generation_config.json'}"):
            found = GenerationConfig.from_pretrained(directory).eos_token_id
    if found is None:
        found = config.eos_token_id
    if found is None:
        return []
    ids = list(found) if isinstance(found, list | tuple) else [found]
    if any(type(number) is not int or number < 0 for number in ids):
        raise UserError(f"target.model: {directory} has eos_token_id {found!r}, which is no token")
    return sorted(ids)
