"""The target's tokenizer, without transformers where the result is the same.

AutoTokenizer takes five times the CPU of everything else in a tokenisation job with an empty shard.
For most published targets, the result is their tokenizer.json unchanged and a chat template that
Jinja renders. `read_tokenizer` does just that, and declines where transformers would change a part:
other classes, unknown settings, special tokens that the file lacks or has with other flags, another
version of transformers. Then `load_tokenizer` uses AutoTokenizer.
tests/target_model/test_tokenizer.py compares ids, offsets and rendered text over published
tokenizers.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from eagle3.errors import Foreign, UserError
from eagle3.target_model.config import MOST
from eagle3.target_model.file_tokenizer import FileTokenizer
from eagle3.target_model.files import read_object

# Minor versions of transformers whose loading code was reviewed and is compared in tests. It has
# special rules for a growing list of models, so other versions load tokenizers themselves.
KNOWN_TRANSFORMERS = ("5.19",)
# Classes that take tokenizer.json unchanged, and the model types for which transformers follows a
# file that names one of them (tokenization_auto.py).
GENERIC = ("PreTrainedTokenizerFast", "TokenizersBackend")
GENERIC_TYPES = (
    *("glm4", "glm4_moe", "gpt_oss", "granite", "llama", "olmo2", "olmo3", "qwen3", "qwen3_moe"),
    "smollm3",
)
# Model types whose tokenizer.json is taken unchanged, whatever class the file names.
ALWAYS_GENERIC = ("deepseek_v3", "minimax_m2", "nemotron", "phi3")
# Qwen2Tokenizer keeps the vocabulary of tokenizer.json and builds the rest itself: no difference if
# the file holds the same rest.
QWEN2 = ("Qwen2Tokenizer", "Qwen2TokenizerFast")
QWEN2_TYPES = ("qwen2", "qwen3", "qwen3_moe")
QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2_SPLIT = {"type": "Split", "behavior": "Isolated", "invert": False}
QWEN2_SPLIT["pattern"] = {"Regex": QWEN2_WORDS}
QWEN2_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
# Settings that change neither ids nor offsets nor rendered text.
HARMLESS = frozenset(
    (
        *("add_bos_token", "add_eos_token", "added_tokens_decoder", "backend", "chat_template"),
        *("clean_up_tokenization_spaces", "errors", "is_local", "legacy", "model_input_names"),
        *("local_files_only", "model_max_length", "name_or_path", "padding_side"),
        *("tokenizer_class", "sp_model_kwargs", "spaces_between_special_tokens"),
        *("truncation_side", "use_default_system_prompt", "processor_class", *NAMED),
        *("additional_special_tokens", "extra_special_tokens"),
    )
)
# Settings that must have one of these values if they are present.
PLAIN = {"add_prefix_space": (False, None), "split_special_tokens": (False,)}
FLAGS = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")
PLAIN_SPECIAL = (False, False, False, False, True)  # FLAGS of a token that transformers adds


def load_tokenizer(directory: Path, trust_remote_code: bool = False) -> Any:
    """The target's tokenizer, with its chat template. Raises UserError if it cannot be loaded."""
    for name in ("tokenizer.json", "vocab.json"):
        if (directory / name).is_file():
            _check_ids(directory / name)
    tokenizer = read_tokenizer(directory) or _load_with_transformers(directory, trust_remote_code)
    if tokenizer.is_fast:  # the file may contain truncation or padding lengths
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()
    return tokenizer


def _load_with_transformers(directory: Path, trust_remote_code: bool) -> Any:
    from transformers import AutoTokenizer

    config_file, what = directory / "tokenizer_config.json", f"the tokenizer of {directory}"
    if not trust_remote_code and config_file.is_file() and read_object(config_file).get("auto_map"):
        what += ", whose own code (auto_map) runs only with target.trust_remote_code true"
    with Foreign(f"target.model: cannot load {what}"):
        return AutoTokenizer.from_pretrained(directory, trust_remote_code=trust_remote_code)


def read_tokenizer(directory: Path) -> FileTokenizer | None:
    """The tokenizer from its files alone; None where transformers might build a different one, or
    the files are damaged."""
    names = ("config.json", "tokenizer.json", "tokenizer_config.json")
    if not all((directory / name).is_file() for name in names):
        return None
    if (directory / "additional_chat_templates").exists():
        return None
    if not version("transformers").startswith(tuple(f"{minor}." for minor in KNOWN_TRANSFORMERS)):
        return None
    config, file, settings = (read_object(directory / name) for name in names)
    added = _added_tokens(directory, file, settings)
    if added is None or not _loads_unchanged(config, file, settings):
        return None
    special = _special_tokens(settings, added)
    if special is None:
        return None
    from tokenizers import Tokenizer

    with Foreign(f"target.model: cannot load the tokenizer of {directory}"):
        backend = Tokenizer.from_file(str(directory / "tokenizer.json"))
    by_name, contents = special
    numbers = (backend.token_to_id(content) for content in dict.fromkeys(contents))
    ids = [number for number in numbers if number is not None]
    return FileTokenizer(backend, _template(directory, settings), by_name, ids)


def _loads_unchanged(
    config: Mapping[str, Any], file: Mapping[str, Any], settings: Mapping[str, Any]
) -> bool:
    """Whether transformers would take tokenizer.json unchanged, or build the same tokenizer."""
    if any(key not in HARMLESS and key not in PLAIN for key in settings):
        return False
    if any(settings.get(key, allowed[0]) not in allowed for key, allowed in PLAIN.items()):
        return False
    name, model = settings.get("tokenizer_class"), file.get("model")
    if not isinstance(model, dict) or model.get("type") != "BPE":
        return False
    kind = config.get("model_type")
    if kind in ALWAYS_GENERIC or (name in GENERIC and kind in GENERIC_TYPES):
        return True
    return name in QWEN2 and kind in QWEN2_TYPES and _matches_qwen2(file, settings)


def _matches_qwen2(file: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
    """Whether tokenizer.json holds what Qwen2Tokenizer builds from its vocabulary."""
    # the class has default names for tokens that the file does not name
    if not {"unk_token", "bos_token", "eos_token", "pad_token", "added_tokens_decoder"} <= set(
        settings
    ):
        return False
    model, decoder, pre_tokenizer = file["model"], file.get("decoder"), file.get("pre_tokenizer")
    plain = {"dropout": None, "unk_token": None, "fuse_unk": False, "byte_fallback": False}
    unset_keys = ("continuing_subword_prefix", "end_of_word_suffix", "ignore_merges")
    if any(model.get(key) != value for key, value in plain.items()):
        return False
    if any(model.get(key) for key in unset_keys) or file.get("normalizer") != {"type": "NFC"}:
        return False
    # the options of a byte-level decoder have no effect, nor has this one of a pre-tokenizer
    if not isinstance(decoder, dict) or decoder.get("type") != "ByteLevel":
        return False
    parts = pre_tokenizer.get("pretokenizers") if isinstance(pre_tokenizer, dict) else None
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        return False
    effective = [{k: v for k, v in part.items() if k != "trim_offsets"} for part in parts]
    return effective == [QWEN2_SPLIT, QWEN2_BYTES] and _has_consecutive_ids(file)


def _has_consecutive_ids(file: Mapping[str, Any]) -> bool:
    """Whether added tokens have consecutive ids after the vocabulary, as if added in turn."""
    vocab = file["model"].get("vocab")
    if not isinstance(vocab, dict):
        return False
    numbers = sorted(t["id"] for t in file["added_tokens"] if t["content"] not in vocab)
    return numbers == list(range(len(vocab), len(vocab) + len(numbers)))


Added = dict[str, tuple[Any, ...]]


def _added_tokens(
    directory: Path, file: Mapping[str, Any], settings: Mapping[str, Any]
) -> Added | None:
    """Flags of each added token of tokenizer.json; None if another file may contradict them."""
    try:
        flags_of_id = {
            token["id"]: tuple(token[flag] for flag in FLAGS) for token in file["added_tokens"]
        }
        decoder = settings.get("added_tokens_decoder")
        if decoder is None:
            other_files = ("added_tokens.json", "special_tokens_map.json")
            if any((directory / name).exists() for name in other_files):
                return None
        elif {int(n): tuple(t[flag] for flag in FLAGS) for n, t in decoder.items()} != flags_of_id:
            return None
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    return {flags[0]: flags[1:] for flags in flags_of_id.values()}


def _special_tokens(
    settings: Mapping[str, Any], added: Added
) -> tuple[dict[str, str], list[str]] | None:
    """Special tokens by name, and the contents of all; None if the file lacks one in the form in
    which transformers would add it."""
    extra = settings.get("extra_special_tokens") or settings.get("additional_special_tokens") or []
    if not isinstance(extra, list):
        return None
    by_name: dict[str, str] = {}
    for name in NAMED:
        token = settings.get(name)
        content = token.get("content") if isinstance(token, dict) else token
        if content is None:
            continue
        # it keeps the flags of the file, but transformers would make a token special that is not
        if not isinstance(content, str) or not added.get(content, (False,))[-1]:
            return None
        by_name[name] = content
    if any(not isinstance(token, str) or added.get(token) != PLAIN_SPECIAL for token in extra):
        return None
    return by_name, [*by_name.values(), *extra]


def _template(directory: Path, settings: Mapping[str, Any]) -> Any:
    """The chat template, or several by name."""
    template_file = directory / "chat_template.jinja"
    if template_file.is_file():
        return template_file.read_text(encoding="utf-8")
    template = settings.get("chat_template")
    if isinstance(template, list):
        return {entry["name"]: entry["template"] for entry in template}
    return template


def _check_ids(path: Path) -> None:
    """Raise UserError for an id beyond any vocabulary: the tokenizers library builds a table of all
    ids up to the largest, which for 2**31 takes minutes and tens of gigabytes."""
    content = read_object(path)
    model = content.get("model")
    vocab = model.get("vocab") if isinstance(model, dict) else content
    ids = vocab.values() if isinstance(vocab, dict) else ()
    largest = max((number for number in ids if isinstance(number, int)), default=0)
    if largest > MOST["vocab_size"]:
        raise UserError(
            f"target.model: {path} has a token of id {largest}, beyond {MOST['vocab_size']}"
        )
