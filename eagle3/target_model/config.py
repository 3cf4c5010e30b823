"""A target's configuration, read from config.json alone where that file states everything.

transformers fills in what a file leaves out, renames what older files spell differently, and takes
seconds of CPU to import. Most jobs need a dozen figures. So a file of a model type listed here that
states all of them is read as JSON; any other goes through AutoConfig.
tests/target_model/test_config.py compares the two over published files.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from eagle3.errors import Foreign, UserError
from eagle3.target_model.files import read_object

# more than any model has: false figures would cost memory before a tensor is read
MOST = {
    "vocab_size": 2**24,
    "hidden_size": 2**20,
    "num_hidden_layers": 2**14,
    "max_position_embeddings": 2**40,
}
# other names of max_position_embeddings, in models without a table of positions
CONTEXTS = ("max_seq_len", "seq_length", "max_sequence_length")
# model types without a class in transformers, and the type with the same model
SAME_MODEL = {"kimi_k2": "deepseek_v3"}
# model types that no draft can be trained for, and why
UNFIT = {
    "hrm_text": "its layers run several times for each token, so none has one output",
    "musicgen": "it writes sounds, not text",
    "musicgen_melody": "it writes sounds, not text",
    "blt": "it reads bytes in patches and has no list of layers over tokens",
    "gemma4_assistant": "it is itself a draft, of a Gemma 4",
    "gemma4_unified_assistant": "it is itself a draft, of a Gemma 4",
    "cpmant": "it puts tokens of its own in front of every text",
    "xlnet": "its tokens are predicted in any order",
}
# Model types whose class takes these figures unchanged from the file, and whether it computes a
# missing head_dim as hidden_size / num_attention_heads.
PLAIN_TYPES = {"llama": True, "mistral": True, "qwen2": True, "qwen3": False, "qwen3_moe": False}
COUNTS = (
    *("hidden_size", "intermediate_size", "max_position_embeddings", "num_attention_heads"),
    *("num_hidden_layers", "num_key_value_heads", "vocab_size"),
)
EXPERTS = ("moe_intermediate_size", "num_experts_per_tok")
OTHERS = ("bos_token_id", "eos_token_id", "rms_norm_eps", "tie_word_embeddings")


class JsonConfig(SimpleNamespace):
    """The values of a config.json under the names that transformers uses."""

    def to_dict(self) -> dict[str, Any]:
        return dict(vars(self))


def load_config(directory: Path, trust_remote_code: bool = False) -> Any:
    """The target's text configuration; of a multimodal model, that of its text part.

    Raises UserError if it cannot be read.
    """
    text = from_json(read_object(directory / "config.json"))
    if text is None:
        text = load_text_config(directory, trust_remote_code)
    check_figures(text, directory / "config.json")
    return text


def check_figures(text: Any, path: Path) -> None:
    """Raise UserError if the text configuration, read from `path`, lacks a figure that every job
    needs, or is of a model that does not write one token after another."""
    if getattr(text, "is_encoder_decoder", False):
        raise UserError(
            f"target.model: {path} is of an encoder with a decoder; a target is a decoder alone"
        )
    # of the types with these keys, only GPT-NeoX is always causal; unlike BERT and its relatives
    # it has rotary parameters
    encoder = getattr(text, "is_decoder", None) is False or getattr(text, "causal", None) is False
    if encoder and not getattr(text, "rope_parameters", None):
        raise UserError(
            f"target.model: {path} is of an encoder, whose tokens see those behind them; a target "
            "is a decoder"
        )
    if text.model_type in UNFIT or (getattr(text, "altup_num_inputs", None) or 1) > 1:
        reason = UNFIT.get(text.model_type, "its layers hand on several states, by turns (AltUp)")
        raise UserError(f"target.model: {path} is of a {text.model_type}: {reason}")
    if getattr(text, "max_position_embeddings", None) is None:
        context = next((figure(text, name) for name in CONTEXTS if figure(text, name)), None)
        if context is None:
            raise UserError(
                f"target.model: {path} has no max_position_embeddings; add it to the file: the "
                "longest text, in tokens, that the model can read"
            )
        text.max_position_embeddings = context
    for name, limit in MOST.items():
        value = getattr(text, name, None)
        if type(value) is not int or not 0 < value <= limit:
            raise UserError(
                f"target.model: {path} has {name} = {value!r}; must be a whole number from 1 to "
                f"{limit}"
            )


def figure(text: Any, name: str) -> int | None:
    """A positive integer of a text configuration; None if missing or not one for all layers."""
    try:
        value = getattr(text, name, None)
    except RuntimeError:  # raised by transformers where layers differ
        return None
    return value if type(value) is int and value > 0 else None


def dense_width(text: Any) -> int | None:
    """Width of the target's MLP; None where `intermediate_size` is one expert's (Mixtral, gpt-oss)
    or missing."""
    dense = getattr(text, "intermediate_size_mlp", None)  # Llama 4
    if dense is not None:
        return int(dense)
    if getattr(text, "num_local_experts", 0) and not hasattr(text, "moe_intermediate_size"):
        return None
    width = getattr(text, "intermediate_size", None) or getattr(text, "ffn_dim", None)
    # Gemma 3n has one for each layer
    return max(width) if isinstance(width, list | tuple) else width


def from_json(raw: Mapping[str, Any]) -> JsonConfig | None:
    """The configuration, if the file states all of it; None if transformers has to read it."""
    kind = raw.get("model_type")
    if not isinstance(kind, str) or kind not in PLAIN_TYPES:
        return None
    if raw.get("auto_map") or "to_dict" in raw:
        return None
    counts = COUNTS + (EXPERTS if "moe" in kind else ())
    if not all(type(raw.get(name)) is int and raw[name] > 0 for name in counts):
        return None
    if any(name not in raw for name in OTHERS) or type(raw["rms_norm_eps"]) is not float:
        return None
    rope, head_dim = _rope(raw), raw.get("head_dim")
    if head_dim is None and PLAIN_TYPES[kind]:
        head_dim = raw["hidden_size"] // raw["num_attention_heads"]
    if rope is None or type(head_dim) is not int:
        return None
    dtype = raw.get("dtype", raw.get("torch_dtype"))
    values = {**raw, "head_dim": head_dim, "rope_parameters": rope, "dtype": dtype}
    for older in ("rope_theta", "rope_scaling", "torch_dtype"):
        values.pop(older, None)
    return JsonConfig(**values)


def _rope(raw: Mapping[str, Any]) -> dict[str, Any] | None:
    """Rotary parameters in the form of transformers 5, from either form; None if a part is
    missing."""
    if "partial_rotary_factor" in raw or "original_max_position_embeddings" in raw:
        return None
    parameters = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    if not isinstance(parameters, dict):
        return None
    theta = parameters.get("rope_theta", raw.get("rope_theta"))
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    scaled = kind == "llama3" and "original_max_position_embeddings" in parameters
    if type(theta) not in (int, float) or not (kind == "default" or scaled):
        return None
    return {**parameters, "rope_type": kind, "rope_theta": theta}


def stated_dtype(directory: Path) -> str | None:
    """The dtype of the weights that config.json names, None if it names none; read without
    transformers. Of a multimodal model, that of its text part."""
    raw = read_object(directory / "config.json")
    text = raw.get("text_config")
    for values in (text if isinstance(text, dict) else {}, raw):
        dtype = values.get("dtype", values.get("torch_dtype"))
        if isinstance(dtype, str):
            return dtype.removeprefix("torch.")
    return None


def load_whole_config(directory: Path, trust_remote_code: bool = False) -> Any:
    """The target's configuration from transformers, with every part of a multimodal model.

    Raises UserError if transformers cannot read it.
    """
    from transformers import AutoConfig

    raw = read_object(directory / "config.json")
    if raw.get("model_type") in SAME_MODEL:
        values = {key: value for key, value in raw.items() if key not in ("model_type", "auto_map")}
        with Foreign(f"target.model: cannot read the configuration of {directory}"):
            return AutoConfig.for_model(SAME_MODEL[raw["model_type"]], **values)
    check_code(directory, "config.json", trust_remote_code)
    with Foreign(f"target.model: cannot read the configuration of {directory}"):
        return AutoConfig.from_pretrained(directory, trust_remote_code=trust_remote_code)


def load_text_config(directory: Path, trust_remote_code: bool = False) -> Any:
    """The target's text configuration from transformers, with the defaults of its class.

    Raises UserError if transformers cannot read it.
    """
    full_config = load_whole_config(directory, trust_remote_code)
    with Foreign(f"target.model: {directory} has no single text model"):
        text = full_config.get_text_config(decoder=True)
    if text is not full_config and getattr(full_config, "tie_word_embeddings", False):
        text.tie_word_embeddings = True  # a wrapper holds the head, so it decides
    return text


def check_code(directory: Path, name: str, trusted: bool) -> None:
    """Raise UserError if a model's file needs untrusted code that comes with the weights, because
    transformers has no class of its own for the model."""
    raw = read_object(directory / name)
    if trusted or not raw.get("auto_map"):
        return
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if raw.get("model_type") not in CONFIG_MAPPING:
        raise UserError(
            f"target.model: {directory / name} needs code that comes with it (auto_map), since "
            "transformers does not know the model; read that code, then set "
            "target.trust_remote_code to true, or use another model"
        )


def architectures(directory: Path) -> tuple[str, ...]:
    """The names of the target's model classes in config.json."""
    names = read_object(directory / "config.json").get("architectures")
    return tuple(names) if isinstance(names, list) else ()


def stop_ids(directory: Path, config: Any) -> list[int]:
    """Tokens that end generation: generation_config.eos_token_id, else the configuration's.

    Raises UserError if they are no token ids.
    """
    eos = None
    if (directory / "generation_config.json").is_file():
        eos = read_object(directory / "generation_config.json").get("eos_token_id")
    if eos is None:
        eos = config.eos_token_id
    if eos is None:
        return []
    ids = list(eos) if isinstance(eos, list | tuple) else [eos]
    if any(type(number) is not int or number < 0 for number in ids):
        raise UserError(f"target.model: {directory} has eos_token_id {eos!r}, which is not a token")
    return sorted(ids)
