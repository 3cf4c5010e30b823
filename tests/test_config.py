"""The configuration: completed from the schema, every fault one sentence that says what to do."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from eagle3.config import complete, load_schema
from eagle3.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
SCHEMA = load_schema(ROOT / "config.schema.yaml")
EMBEDDED = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))


def done(text: str) -> dict[str, Any]:
    """A configuration given as YAML."""
    return complete({"run": "r", **(yaml.safe_load(text) or {})}, SCHEMA)


def keys(schema: dict[str, Any], above: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    for name, part in schema.get("properties", {}).items():
        yield f"{above}{name}", part
        yield from keys(part, f"{above}{name}.")


def test_the_schema_is_valid_and_describes_every_key() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    for key, part in keys(SCHEMA):
        assert part.get("description"), key
        assert "default" in part or key == "run", key
        if part.get("properties"):
            assert part["additionalProperties"] is False, key


def test_every_default_is_allowed_by_its_own_rule() -> None:
    for key, part in keys(SCHEMA):
        if "default" in part:
            assert Draft202012Validator(part).is_valid(part["default"]), key


def test_the_embedded_configuration_is_valid_and_names_only_known_keys() -> None:
    filled = complete(EMBEDDED, SCHEMA)
    known = {key for key, _ in keys(SCHEMA)}

    def check(given: dict[str, Any], above: str = "") -> None:
        for name, value in given.items():
            assert f"{above}{name}" in known
            if isinstance(value, dict):
                check(value, f"{above}{name}.")

    check(EMBEDDED)
    assert filled["train"]["epochs"] == EMBEDDED["train"]["epochs"]


def test_a_run_name_alone_gives_every_key_its_default() -> None:
    filled = done("")
    for key, part in keys(SCHEMA):
        value: Any = filled
        for name in key.split("."):
            value = value[name]
        if part.get("type") != "object" and key != "run":
            assert value == part["default"], key


def test_completing_twice_changes_nothing_and_touches_nothing_given() -> None:
    given = deepcopy(EMBEDDED)
    once = complete(given, SCHEMA)
    assert given == EMBEDDED
    assert complete(once, SCHEMA) == once
    once["train"]["epochs"] = 99
    assert complete(given, SCHEMA)["train"]["epochs"] != 99


def test_a_section_emptied_by_an_overlay_has_its_defaults() -> None:
    assert done("train:\nresources:\n") == done("")
    assert done("resources: {capture: }") == done("")


@pytest.mark.parametrize(
    ("text", "section", "key", "value"),
    [
        ("train: {learning_rate: 1e-4}", "train", "learning_rate", 1e-4),
        ("train: {learning_rate: '2.5E-4'}", "train", "learning_rate", 2.5e-4),
        ("train: {epochs: '3'}", "train", "epochs", 3),
        ("train: {epochs: 3.0}", "train", "epochs", 3),
        ("train: {weight_decay: 0}", "train", "weight_decay", 0.0),
        ("tokens: {train_only_last_turn: 'True'}", "tokens", "train_only_last_turn", True),
        ("tokens: {train_only_last_turn: 'false'}", "tokens", "train_only_last_turn", False),
        ("draft: {head_dim: 'null'}", "draft", "head_dim", None),
        ("draft: {head_dim: 'None'}", "draft", "head_dim", None),
        ("draft: {head_dim: '64'}", "draft", "head_dim", 64),
        ("dataset: {revision: '123'}", "dataset", "revision", "123"),
        ("dataset: {revision: 'null'}", "dataset", "revision", "null"),
        ("hidden_states: {aux_layers: ['1', 2.0, 3]}", "hidden_states", "aux_layers", [1, 2, 3]),
    ],
)
def test_text_and_floats_become_what_the_key_holds(
    text: str, section: str, key: str, value: Any
) -> None:
    found = done(text)[section][key]
    assert found == value
    assert type(found) is type(value)
    if isinstance(value, list):
        assert all(type(item) is int for item in found)


FAULTS = {
    "run: 'a b'": "run is 'a b'; 'a b' does not match ",
    "run: ../up": "run is '../up'; '../up' does not match ",
    "dataset: {source: ''}": "dataset.source is ''; '' should be non-empty",
    "dataset: {source: 3}": "dataset.source is 3; expected string or array",
    "dataset: {source: []}": "dataset.source is []; must have at least 1 entries",
    "dataset: {source: [{source: gsm8k, weight: 0}]}": "dataset.source.0.weight is 0.0; must be "
    "greater than 0",
    "dataset: {source: [{source: gsm8k, wieght: 1}]}": "unknown key dataset.source.0.wieght; did "
    "you mean weight?",
    "dataset: {seed: -1}": "dataset.seed is -1; must be at least 0",
    "dataset: {seed: 1.5}": "dataset.seed is 1.5; expected integer",
    "dataset: {seed: true}": "dataset.seed is True; expected integer",
    "dataset: {seed: null}": "dataset.seed is None; expected integer",
    "dataset: {num_samples: 1e3}": "dataset.num_samples is '1e3'; expected integer",
    "dataset: {eval_fraction: 0}": "dataset.eval_fraction is 0.0; must be greater than 0",
    "dataset: {eval_fraction: 1}": "dataset.eval_fraction is 1.0; must be less than 1",
    "dataset: {max_bad_fraction: 1.1}": "dataset.max_bad_fraction is 1.1; must be at most 1",
    "train: {precision: fp8}": "train.precision is 'fp8'; allowed: float32, bfloat16",
    "train: {learning_rate: fast}": "train.learning_rate is 'fast'; expected number",
    "train: {learning_rate: .nan}": "train.learning_rate is 'nan'; expected number",
    "train: {learning_rate: nan}": "train.learning_rate is 'nan'; expected number",
    "train: {weight_decay: .inf}": "train.weight_decay is 'inf'; expected number",
    "train: {weight_decay: 1e999}": "train.weight_decay is 'inf'; expected number",
    "train: {epochs: .inf}": "train.epochs is 'inf'; expected integer",
    "train: {epoch: 3}": "unknown key train.epoch; did you mean epochs?",
    "train: 3": "train is 3; expected object",
    "train: [epochs]": "train is ['epochs']; expected object",
    "trian: {}": "unknown key trian; did you mean train?",
    "vocab: {zzz: 1}": "unknown key vocab.zzz; known here: draft_vocab_size",
    "vocab: {1: 1, zz: 2}": "unknown key vocab.1, vocab.zz; known here: draft_vocab_size",
    "vocab: {on: 1}": "unknown key vocab.True; known here: draft_vocab_size",
    "resources: {train: {thread: 1}}": "unknown key resources.train.thread; did you mean threads?",
    "resources: {device: gpu}": "resources.device is 'gpu'; allowed: cpu, cuda",
    "draft: {head_dim: wide}": "draft.head_dim is 'wide'; expected integer or null",
    "embedded_target: {hidden_size: 100}": "embedded_target.hidden_size is 100; 100 is not a ",
    "hidden_states: {aux_layers: [1, 2]}": "hidden_states.aux_layers is [1, 2]; must have at least"
    " 3 entries",
    "hidden_states: {aux_layers: [1, 2, 3, 4]}": "hidden_states.aux_layers is [1, 2, 3, 4]; must "
    "have at most 3 entries",
    "hidden_states: {aux_layers: [1, x, 3]}": "hidden_states.aux_layers.1 is 'x'; expected integer",
    "hidden_states: {aux_layers: [1, 1, 3]}": "hidden_states.aux_layers is [1, 1, 3]; its "
    "entries must be different",
    "hidden_states: {aux_layers: [3, 2, 1]}": "hidden_states.aux_layers is [3, 2, 1]; must be "
    "ascending",
    "train: {pack_tokens: 100}": "train.pack_tokens is 100, smaller than tokens.max_length 2048: a "
    "document must fit into one pack; raise pack_tokens or lower max_length",
    "resources: {train: {processes: 4, sp_ulysses_size: 3}}": "resources.train.sp_ulysses_size 3 x "
    "sp_ring_size 1 ranks share a pack, which 4 processes cannot: make processes a multiple of 3",
    "{train: {packs_per_batch: 2}, resources: {train: {processes: 8, sp_ring_size: 2}}}": ""
    "resources.train.processes is 8, more than train.packs_per_batch 2 times 2 ranks that share "
    "a pack: ranks share a batch by its packs, so some would have nothing to do",
    "dataset: {regenerate: {backend: server}}": "dataset.regenerate.backend is 'server' but "
    "resources.regenerate.servers is empty: name at least one, such as http://localhost:30000/v1",
    "embedded_target: {num_heads: 3}": "embedded_target.hidden_size 128 must be a multiple of "
    "num_heads 3, and num_heads of num_kv_heads 2",
}


@pytest.mark.parametrize("text", FAULTS)
def test_a_fault_is_one_sentence_with_key_value_and_what_is_allowed(text: str) -> None:
    with pytest.raises(UserError) as caught:
        done(text)
    said = str(caught.value)
    assert said.startswith("config: " + FAULTS[text])
    assert "\n" not in said


def test_a_missing_run_name_is_a_fault() -> None:
    with pytest.raises(UserError, match=r"^config: 'run' is a required property$"):
        complete({}, SCHEMA)


def test_every_fault_is_named_each_on_its_line() -> None:
    with pytest.raises(UserError) as caught:
        done("dataset: {seed: -1}\ntrain: {epochs: 0, precision: fp8}\nnothing: 1")
    lines = [line.strip() for line in str(caught.value).removeprefix("config: ").splitlines()]
    assert sorted(line.split(" is ")[0].split(";")[0] for line in lines) == [
        "dataset.seed",
        "train.epochs",
        "train.precision",
        "unknown key nothing",
    ]


@pytest.mark.parametrize("huge", [10**400, -(10**400)])
def test_absurd_numbers_are_faults_and_not_tracebacks(huge: int) -> None:
    with pytest.raises(UserError, match=r"train.learning_rate is -?10+; must be "):
        complete({"run": "r", "train": {"learning_rate": huge}}, SCHEMA)
