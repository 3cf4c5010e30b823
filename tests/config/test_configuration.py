"""The configuration: completed from the schema, every fault one sentence that says what to do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from eagle3.config import faults
from eagle3.config.configuration import Config
from eagle3.config.section import is_section
from eagle3.config.train import Train
from eagle3.errors import UserError
from eagle3.files.artifact import digest

ROOT = Path(__file__).resolve().parents[2]
EMBEDDED = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))


def complete(config: dict[str, Any]) -> dict[str, Any]:
    return Config.of(config).to_dict()


def done(text: str) -> dict[str, Any]:
    """A configuration given as YAML."""
    return complete({"run": "r", **(yaml.safe_load(text) or {})})


def keys(model: type[BaseModel] = Config, above: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every key with its dotted name, sections too."""
    for name, field in model.model_fields.items():
        yield f"{above}{name}", field
        if is_section(field.annotation):
            yield from keys(field.annotation, f"{above}{name}.")


def test_every_key_is_described_and_has_a_default() -> None:
    for key, field in keys():
        assert field.annotation.__doc__ if is_section(field.annotation) else field.description, key
        assert key == "run" or not field.is_required(), key


def test_the_embedded_configuration_is_valid_and_names_only_known_keys() -> None:
    filled = complete(EMBEDDED)
    known = {key for key, _ in keys()}

    def check(given: dict[str, Any], above: str = "") -> None:
        for name, value in given.items():
            assert f"{above}{name}" in known
            if isinstance(value, dict) and f"{above}{name}" != "tokens.chat_template_options":
                check(value, f"{above}{name}.")

    check(EMBEDDED)
    assert filled["train"]["epochs"] == EMBEDDED["train"]["epochs"]


def test_a_run_name_alone_gives_every_key_its_default() -> None:
    """Digests of settings hang on the values and on their types."""
    filled = done("")
    assert digest(json.dumps(filled, sort_keys=True)) == "1a299aaed1139c9d"
    for key, field in keys():
        value: Any = filled
        for name in key.split("."):
            value = value[name]
        if not is_section(field.annotation) and key != "run":
            assert value == field.default and type(value) is type(field.default), key


def test_every_default_is_allowed_by_its_own_rule() -> None:
    filled = done("")
    assert complete(filled) == filled


def test_completing_twice_changes_nothing_and_touches_nothing_given() -> None:
    given = deepcopy(EMBEDDED)
    once = complete(given)
    assert given == EMBEDDED
    assert complete(once) == once
    once["train"]["epochs"] = 99
    once["export"]["formats"].append("hf")
    assert complete(given)["train"]["epochs"] != 99
    assert done("")["export"]["formats"] == ["sglang"]


def test_a_stage_reads_no_key_that_its_settings_do_not_hold() -> None:
    train = Train.from_settings({"epochs": 3, "seed": 0})
    assert (train.epochs, train.seed) == (3, 0)
    with pytest.raises(AttributeError, match="learning_rate"):
        _ = train.learning_rate


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
    result = done(text)[section][key]
    assert result == value
    assert type(result) is type(value)
    if isinstance(value, list):
        assert all(type(item) is int for item in result)


FAULTS = {
    "run: 'a b'": "run is 'a b'; must be 1 to 64 letters, digits, dots, underscores and hyphens, "
    "and start with a letter or a digit",
    "run: ../up": "run is '../up'; must be 1 to 64 letters",
    "dataset: {source: ''}": "dataset.source is ''; must not be empty",
    "dataset: {source: 3}": "dataset.source is 3; expected string or list",
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
    "train: {save_interval: 9}": "unknown key train.save_interval; did you mean "
    "resources.train.save_interval?",
    "train: {threads: 9}": "unknown key train.threads; did you mean resources.train.threads?",
    "learning_rate: 1e-4": "unknown key learning_rate; did you mean train.learning_rate?",
    "train: {max_length: 9}": "unknown key train.max_length; did you mean tokens.max_length?",
    "target: {num_layers: 9}": "unknown key target.num_layers; known here: model, ",
    "train: 3": "train is 3; expected mapping",
    "train: [epochs]": "train is ['epochs']; expected mapping",
    "trian: {}": "unknown key trian; did you mean train?",
    "train: {lr: 1e-4}": "unknown key train.lr; did you mean train.learning_rate?",
    "{gradient_checkpointing: true}": "unknown key gradient_checkpointing; did you mean "
    "resources.train.recompute?",
    "vocab: {zzz: 1}": "unknown key vocab.zzz; known here: draft_vocab_size",
    "vocab: {1: 1, zz: 2}": "unknown key vocab.1, vocab.zz; known here: draft_vocab_size",
    "vocab: {on: 1}": "unknown key vocab.True; known here: draft_vocab_size",
    "resources: {train: {thread: 1}}": "unknown key resources.train.thread; did you mean threads?",
    "resources: {device: 3}": "resources.device is 3; allowed: cpu, cuda",
    "resources: {storage_prefix: gs://b}": "resources.storage_prefix is 'gs://b'; must be s3://",
    "resources: {regenerate: {servers: ['http://me:word@here']}}": "resources.regenerate.servers.0 "
    "is 'http://me:word@here'; must be an address without user or password",
    "resources: {capture: {sglang_arguments: {a: {b: [2026-11-28]}}}}": "resources.capture."
    "sglang_arguments.a.b.0 is datetime.date(2026, 11, 28), to YAML a date: quote it",
    "resources: {capture: {sglang_arguments: {a: {1: x}}}}": "resources.capture.sglang_arguments.a."
    "1: a name must be text, so quote it",
    "resources: {capture: {sglang_arguments: {on: x}}}": "resources.capture.sglang_arguments",
    "resources: {capture: {sglang_arguments: {a: .nan}}}": "resources.capture.sglang_arguments.a "
    "is nan; must be a finite number",
    "tokens: {chat_template_options: {a: [1]}}": "tokens.chat_template_options.a is [1]; expected "
    "string, number, boolean or null",
    "tokens: {system_prompt: ''}": "tokens.system_prompt is ''; must not be empty",
    'tokens: {system_prompt: "a\\0b"}': "tokens.system_prompt is 'a\\x00b'; must be text ",
    "evaluation: {prompts: []}": "evaluation.prompts is []; must have at least 1 entries",
    "evaluation: {prompts: [{name: a}]}": "evaluation.prompts.0.source is missing",
    'evaluation: {prompts: [{name: "a\\n", source: b}]}': "evaluation.prompts.0.name is 'a\\n'; ",
    "export: {formats: [hf, hf]}": "export.formats is ['hf', 'hf']; its entries must be different",
    "export: {formats: [onnx]}": "export.formats.0 is 'onnx'; allowed: sglang, vllm",
    "hidden_states: {keep: false}": "hidden_states.keep is false but hidden_states.window_shards "
    "is null: say how many shards a window has",
    "dataset: {num_samples: 1000001, shard_size: 10}": "dataset.num_samples 1000001 over dataset."
    "shard_size 10 gives 100001 shards, more than 100000: raise shard_size to at least 11",
    "train: {epochs: 10000}": "train.epochs 10000, train.epochs_per_stage 1 and hidden_states."
    "window_shards null give 10000 stages, more than 9999: raise epochs_per_stage or window_shards",
    "embedded_target: {hidden_size: 48, num_heads: 16, num_kv_heads: 16}": "embedded_target."
    "hidden_size 48 over num_heads 16 gives heads of odd width",
    "resources: {device: gpu}": "resources.device is 'gpu'; allowed: cpu, cuda",
    "draft: {head_dim: wide}": "draft.head_dim is 'wide'; expected integer or null",
    "embedded_target: {hidden_size: 100}": "embedded_target.hidden_size is 100; must be a "
    "multiple of 16",
    "hidden_states: {aux_layers: []}": "hidden_states.aux_layers is []; must have at least 1 entr",
    f"hidden_states: {{aux_layers: {list(range(17))}}}": "hidden_states.aux_layers is [0, 1, 2, 3,",
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
    "embedded_target: {num_layers: 4}": "embedded_target.num_layers is 4; must be at least 7",
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
    with pytest.raises(UserError, match=r"^config: run is missing$"):
        complete({})


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
        complete({"run": "r", "train": {"learning_rate": huge}})


def test_faults_between_keys_are_all_named() -> None:
    with pytest.raises(UserError) as caught:
        done("train: {pack_tokens: 64}\nhidden_states: {keep: false}")
    assert [line.split()[0] for line in str(caught.value).split("\n")] == [
        "config:",
        "hidden_states.keep",
    ]


def test_sources_stay_as_they_were_written() -> None:
    """An entry's own null takes the place of what the section says; a key left out does not."""
    written = [{"source": "a.jsonl", "split": None}, "gsm8k", {"source": "b.jsonl", "weight": 2}]
    result = complete({"run": "r", "dataset": {"source": written}})["dataset"]["source"]
    assert result == written
    assert type(result[2]["weight"]) is float


def test_the_words_of_other_projects_lead_to_keys_that_exist() -> None:
    keys = {key for key, _ in faults._keys(Config)}
    assert set(faults.ALIASES.values()) <= keys
    assert not set(faults.ALIASES) & {key.split(".")[-1] for key in keys}  # else a section has it
