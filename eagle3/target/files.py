"""Where a target lies and what its small files say: configuration, tokenizer, stop tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from eagle3.data.sources import HUB
from eagle3.errors import UserError

WANTED = ["*.json", "*.py", "*.safetensors", "*.jinja", "*.model", "*.txt"]
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

    try:
        return AutoConfig.from_pretrained(directory, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as fault:
        raise UserError(
            f"target.model: cannot read the configuration of {directory}: {first_line(fault)}"
        ) from None


def load_config(directory: Path, trust_remote_code: bool = False) -> Any:
    """The target's text configuration (wrappers of multimodal models are looked through).

    Raises UserError if transformers cannot read it.
    """
    whole = load_whole_config(directory, trust_remote_code)
    text = whole.get_text_config(decoder=True)
    if text is not whole and getattr(whole, "tie_word_embeddings", False):
        text.tie_word_embeddings = True  # a wrapper holds the head, so it decides
    return text


def load_tokenizer(directory: Path, trust_remote_code: bool = False) -> Any:
    """The target's tokenizer, with its chat template."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(directory, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as fault:
        raise UserError(
            f"target.model: cannot load the tokenizer of {directory}: {first_line(fault)}"
        ) from None


def stop_ids(directory: Path, config: Any) -> list[int]:
    """Tokens that end generation: generation_config.eos_token_id, else the configuration's."""
    from transformers import GenerationConfig

    found = None
    if (directory / "generation_config.json").is_file():
        found = GenerationConfig.from_pretrained(directory).eos_token_id
    if found is None:
        found = config.eos_token_id
    if found is None:
        return []
    return sorted(found) if isinstance(found, list | tuple) else [found]


def first_line(fault: Exception) -> str:
    """The fault in one line; some have no text at all."""
    return (str(fault).splitlines() or [type(fault).__name__])[0]
