"""Faults that pydantic finds, in plain words: the key, its value, and what is allowed."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from types import NoneType
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from eagle3.config.dataset import TAGS
from eagle3.config.section import alternatives, is_mapping, is_section, item_type

PLAIN_TEXT = "must be text without NUL or surrogates"
NAMES = "a name must be text, so quote it"
WORDS = {int: "integer", float: "number", bool: "boolean", str: "string", NoneType: "null"}
LIMITS = {
    "greater_than_equal": ("ge", "at least"),
    "greater_than": ("gt", "greater than"),
    "less_than_equal": ("le", "at most"),
    "less_than": ("lt", "less than"),
    "multiple_of": ("multiple_of", "a multiple of"),
}
# names of other projects, for keys that are not spelt alike
ALIASES = {
    **dict.fromkeys(("lr", "max_lr", "peak_lr"), "train.learning_rate"),
    **dict.fromkeys(("lr_scheduler", "lr_scheduler_type"), "train.lr_schedule"),
    **dict.fromkeys(("warmup", "warmup_steps"), "train.warmup_ratio"),
    **dict.fromkeys(("num_epochs", "num_train_epochs"), "train.epochs"),
    **dict.fromkeys(("ttt_length", "num_speculative_steps"), "train.ttt_steps"),
    **dict.fromkeys(
        ("batch_size", "per_device_train_batch_size", "gradient_accumulation_steps"),
        "train.packs_per_batch",
    ),
    **dict.fromkeys(("max_seq_len", "max_seq_length", "model_max_length"), "tokens.max_length"),
    **dict.fromkeys(
        ("gradient_checkpointing", "activation_checkpointing"), "resources.train.recompute"
    ),
    **dict.fromkeys(("report_to", "wandb", "tensorboard"), "resources.train.tracker"),
    **dict.fromkeys(("nproc_per_node", "num_gpus", "gpus"), "resources.train.processes"),
    **dict.fromkeys(("tp", "tp_size", "tensor_parallel_size"), "resources.capture.tensor_parallel"),
    **dict.fromkeys(("target_model_path", "model_path", "base_model"), "target.model"),
    **dict.fromkeys(("data_path", "train_data_path", "train_file"), "dataset.source"),
    "aux_hidden_state_layer_ids": "hidden_states.aux_layers",
    "num_draft_tokens": "evaluation.num_speculative_tokens",
    "output_dir": "run",
}
# never hinted at: the demo's own model, whose keys resemble those of targets and drafts
DEMO = "embedded_target"


def sentences(fault: ValidationError, model: type[BaseModel]) -> list[str]:
    """Every fault in one sentence, in the order of their keys. `model` is the whole configuration's
    class."""
    unknown: dict[str, list[str]] = {}  # keys by hint
    by_key: list[tuple[str, str]] = []
    for error in fault.errors(include_url=False):
        path = [str(part) for part in error["loc"] if part not in TAGS.values()]
        if error["type"] == "invalid_key":
            path[-1] = str(error["input"])  # YAML reads `on:` as true
        if error["type"] in ("extra_forbidden", "invalid_key"):
            unknown.setdefault(_hint(path, model), []).append(".".join(path))
        else:
            by_key.append((".".join(path), _sentence(error, path, model)))
    for hint, keys in unknown.items():
        by_key.append((min(keys), f"unknown key {', '.join(sorted(keys))}; {hint}"))
    return [sentence for _, sentence in sorted(by_key)]


def _sentence(error: ErrorDetails, path: Sequence[str], model: type[BaseModel]) -> str:
    key, kind, limits = ".".join(path), error["type"], error.get("ctx", {})
    if kind == "missing":
        return f"{key} is missing"
    if path[-1] == "[key]":
        return f"{'.'.join(path[:-1])}: {NAMES}"
    return f"{key} is {quoted(error['input'])}; {_rule(kind, limits, path, model, error['msg'])}"


def _rule(
    kind: str, limits: Mapping[str, Any], path: Sequence[str], model: type[BaseModel], message: str
) -> str:
    """What is allowed."""
    if kind in LIMITS:
        name, phrase = LIMITS[kind]
        return f"must be {phrase} {limits[name]:g}"
    match kind:
        case "literal_error":
            return f"allowed: {', '.join(get_args(_annotation(path, model)))}"
        case "too_short":
            return f"must have at least {limits['min_length']} entries"
        case "too_long":
            return f"must have at most {limits['max_length']} entries"
        case "string_too_short":
            return "must not be empty"
        case "string_unicode":
            return PLAIN_TEXT
        case "scalar_type":
            return message
    if kind.endswith("_type") or kind == "union_tag_not_found":
        return f"expected {type_words(_annotation(path, model))}"
    return message


def quoted(value: Any) -> str:
    """A value as Python writes it."""
    try:
        return repr(value)
    except ValueError:  # Python refuses to write integers of more than 4300 digits
        return "a number of thousands of digits"


def type_words(annotation: Any) -> str:
    """Names of the types that an annotation allows, such as `integer or null`."""
    kinds = alternatives(annotation)
    return " or ".join(
        WORDS.get(kind) or ("mapping" if is_mapping(kind) else "list") for kind in kinds
    )


def _annotation(path: Sequence[str], model: type[BaseModel]) -> Any:
    """The type of the value at a path."""
    annotation: Any = model
    for part in path:
        kinds = alternatives(annotation)
        section = next((kind for kind in kinds if is_section(kind)), None)
        if section is not None:
            annotation = section.model_fields[part].annotation
        else:
            annotation = item_type(kinds)
    return annotation


def _hint(path: Sequence[str], model: type[BaseModel]) -> str:
    """A suggestion for an unknown key."""
    *parents, name = path
    if name in ALIASES:
        return f"did you mean {ALIASES[name]}?"
    section = next(kind for kind in alternatives(_annotation(parents, model)) if is_section(kind))
    matches = [key for key, last in _keys(model) if last == name and not key.startswith(DEMO)]
    if len(matches) > 1 and parents:  # train.threads: resources.train.threads
        matches = [key for key in matches if key.split(".")[-2:] == [parents[-1], name]]
    if len(matches) == 1:
        return f"did you mean {matches[0]}?"
    close = difflib.get_close_matches(name, list(section.model_fields), n=1)
    known = ", ".join(section.model_fields)
    return f"did you mean {close[0]}?" if close else f"known here: {known}"


def _keys(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str]]:
    """The dotted and the last name of every key that is not a section."""
    for name, field in model.model_fields.items():
        if is_section(field.annotation):
            yield from _keys(field.annotation, f"{prefix}{name}.")  # type: ignore[arg-type]
        else:
            yield f"{prefix}{name}", name
