"""The configuration: checked against `config.schema.yaml`, one sentence per fault.

`complete` turns what a user wrote into the full configuration (defaults filled in, numbers that
YAML or a shell read as text made numbers) or raises UserError naming key, value and what is
allowed.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from eagle3.errors import UserError

LARGEST = 2**53 - 1  # of an integer: JSON readers differ beyond it
# names of shards have five digits, those of stages four; a DAG of more would not be planned either
MOST_SHARDS, MOST_STAGES = 10**5, 10**4 - 1


def load_schema(path: Path) -> dict[str, Any]:
    """Read the JSON schema (written as YAML)."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def complete(config: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with defaults, typed and checked.

    Raises UserError that lists every fault, one a line.
    """
    try:
        filled = _fill(deepcopy(dict(config)), schema)
        faults = sorted(Draft202012Validator(schema).iter_errors(filled), key=lambda e: str(e.path))
        if not faults:
            _check_plain("", filled)
    except RecursionError:  # an alias of YAML can name what it is inside of
        raise UserError("config: it is nested too deeply") from None
    if faults:
        raise UserError("config: " + "\n        ".join(_sentence(fault) for fault in faults))
    _check_across_keys(filled)
    return filled


def _check_plain(key: str, value: Any) -> None:
    """Every value has to fit into JSON and into a shell command, where the schema allows any."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            _check_plain(f"{key}.{name}".lstrip("."), name)
            _check_plain(f"{key}.{name}".lstrip("."), inner)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            _check_plain(f"{key}.{number}", inner)
    elif isinstance(value, str):
        if "\0" in value or any("\ud800" <= letter <= "\udfff" for letter in value):
            raise UserError(f"config: {key} is {value!r}; must be text without NUL or surrogates")
    elif isinstance(value, int):
        if abs(value) > LARGEST:
            raise UserError(f"config: {key} is {value}; must be at most {LARGEST}")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise UserError(f"config: {key} is {value}; must be a finite number")
    elif value is not None:
        raise UserError(
            f"config: {key} is {value!r}, to YAML a {type(value).__name__}: quote it if it is text"
        )


def _fill(value: Any, schema: Mapping[str, Any]) -> Any:
    """Add defaults and turn numeric text into numbers, at every level."""
    if isinstance(value, dict) and "properties" in schema:
        for key, part in schema["properties"].items():
            if key not in value and "default" in part:
                value[key] = deepcopy(part["default"])
            # an overlay may empty a section by writing `train:` and nothing below it
            if value.get(key) is None and part.get("type") == "object":
                value[key] = {}
            if key in value:
                value[key] = _fill(value[key], part)
    elif isinstance(value, list) and "items" in schema:
        value = [_fill(item, schema["items"]) for item in value]
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if isinstance(value, str):
        value = _number(value, kinds)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # .nan and .inf pass every range check; as text they are refused
    # 2.0 is an integer to JSON schema and 0 a number; settings tell 2 from 2.0, and so does range()
    if isinstance(value, float) and value.is_integer() and "integer" in kinds:
        return int(value)
    if type(value) is int and "number" in kinds and abs(value) <= LARGEST:
        return float(value)
    return value


def _number(text: str, kinds: Sequence[str]) -> Any:
    """`1e-4` is text to YAML 1.1, and every value given with --config is text below the top."""
    if "string" in kinds:
        return text
    for kind, convert in (("integer", int), ("number", float)):
        if kind in kinds:
            try:
                return convert(text)
            except ValueError:
                pass
    if "boolean" in kinds and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if "null" in kinds and text.lower() in ("null", "none"):
        return None
    return text


def _sentence(fault: ValidationError) -> str:
    """One fault as a person would say it."""
    key = ".".join(str(part) for part in fault.absolute_path)
    limits: Any = fault.validator_value
    schema: Any = fault.schema
    instance: Any = fault.instance
    match fault.validator:
        case "additionalProperties":
            known = list(schema["properties"])
            unknown = sorted(map(str, set(instance) - set(known)))  # YAML reads `on:` as true
            names = ", ".join(f"{key}.{name}".lstrip(".") for name in unknown)
            close = difflib.get_close_matches(unknown[0], known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known here: {', '.join(known)}"
            return f"unknown key {names}; {hint}"
        case "enum":
            allowed = ", ".join(map(str, limits))
            return f"{key} is {instance!r}; allowed: {allowed}"
        case "type":
            kinds = [limits] if isinstance(limits, str) else limits
            return f"{key} is {instance!r}; expected {' or '.join(kinds)}"
        case "minimum":
            return f"{key} is {instance!r}; must be at least {limits}"
        case "maximum":
            return f"{key} is {instance!r}; must be at most {limits}"
        case "exclusiveMinimum":
            return f"{key} is {instance!r}; must be greater than {limits}"
        case "exclusiveMaximum":
            return f"{key} is {instance!r}; must be less than {limits}"
        case "minItems" | "maxItems":
            bound = "at least" if fault.validator == "minItems" else "at most"
            return f"{key} is {instance!r}; must have {bound} {limits} entries"
        case "uniqueItems":
            return f"{key} is {instance!r}; its entries must be different"
        case "pattern" if "$comment" in schema:
            return f"{key} is {instance!r}; {schema['$comment']}"
        case "required":
            return f"{(key + ': ') if key else ''}{fault.message}"
        case _:
            return f"{key} is {instance!r}; {fault.message}"


def _check_counts(config: dict[str, Any]) -> None:
    """The DAG has a job for every shard and stage."""
    dataset, train = config["dataset"], config["train"]
    shards = -(-dataset["num_samples"] // dataset["shard_size"])
    if shards > MOST_SHARDS:
        least = -(-dataset["num_samples"] // MOST_SHARDS)
        raise UserError(
            f"config: dataset.num_samples {dataset['num_samples']} over dataset.shard_size "
            f"{dataset['shard_size']} gives {shards} shards, more than {MOST_SHARDS}: raise "
            f"shard_size to at least {least}"
        )
    window = config["hidden_states"]["window_shards"]
    windows = -(-shards // (window or shards))
    stages = windows * -(-train["epochs"] // train["epochs_per_stage"])
    if stages > MOST_STAGES:
        raise UserError(
            f"config: train.epochs {train['epochs']}, train.epochs_per_stage "
            f"{train['epochs_per_stage']} and hidden_states.window_shards {window} give {stages} "
            f"stages, more than {MOST_STAGES}: raise epochs_per_stage or window_shards"
        )


def _check_across_keys(config: dict[str, Any]) -> None:
    """Rules that hold between two keys."""
    _check_counts(config)
    length, pack = config["tokens"]["max_length"], config["train"]["pack_tokens"]
    if pack < length:
        raise UserError(
            f"config: train.pack_tokens is {pack}, smaller than tokens.max_length {length}: a "
            f"document must fit into one pack; raise pack_tokens or lower max_length"
        )
    train, packs = config["resources"]["train"], config["train"]["packs_per_batch"]
    ranks, shared = train["processes"], train["sp_ulysses_size"] * train["sp_ring_size"]
    if ranks % shared and shared % ranks:  # several nodes may have the rest
        raise UserError(
            f"config: resources.train.sp_ulysses_size {train['sp_ulysses_size']} x sp_ring_size "
            f"{train['sp_ring_size']} ranks share a pack, which {ranks} processes cannot: make "
            f"processes a multiple of {shared}"
        )
    if ranks > packs * shared:
        raise UserError(
            f"config: resources.train.processes is {ranks}, more than train.packs_per_batch "
            f"{packs}{f' times {shared} ranks that share a pack' if shared > 1 else ''}: ranks "
            "share a batch by its packs, so some would have nothing to do"
        )
    asked, servers = config["dataset"]["regenerate"], config["resources"]["regenerate"]["servers"]
    if asked["backend"] == "server" and not servers:
        raise UserError(
            "config: dataset.regenerate.backend is 'server' but resources.regenerate.servers is "
            "empty: name at least one, such as http://localhost:30000/v1"
        )
    layers = config["hidden_states"]["aux_layers"]
    if layers is not None and layers != sorted(layers):
        raise UserError(f"config: hidden_states.aux_layers is {layers}; must be ascending")
    if not config["hidden_states"]["keep"] and config["hidden_states"]["window_shards"] is None:
        raise UserError(
            "config: hidden_states.keep is false but hidden_states.window_shards is null: say how "
            "many shards a window has; the plan names the most that fit on the disk"
        )
    if config["train"]["early_stop_patience"] and not config["hidden_states"]["keep"]:
        raise UserError(
            f"config: train.early_stop_patience is {config['train']['early_stop_patience']} but "
            "hidden_states.keep is false: in rolling mode the windows of stages that are not "
            "trained would be captured all the same; use keep: true, or null"
        )
    tiny = config["embedded_target"]
    if tiny["hidden_size"] % tiny["num_heads"] or tiny["num_heads"] % tiny["num_kv_heads"]:
        raise UserError(
            f"config: embedded_target.hidden_size {tiny['hidden_size']} must be a multiple of "
            f"num_heads {tiny['num_heads']}, and num_heads of num_kv_heads {tiny['num_kv_heads']}"
        )
    if tiny["hidden_size"] // tiny["num_heads"] % 2:
        raise UserError(
            f"config: embedded_target.hidden_size {tiny['hidden_size']} over num_heads "
            f"{tiny['num_heads']} gives heads of odd width; rotary positions need an even one"
        )
