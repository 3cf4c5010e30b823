"""Never stale: which settings every key of the configuration reaches, key by key."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import torch
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from safetensors.torch import save_file

from eagle3.config.configuration import Config
from eagle3.config.section import alternatives, is_mapping, is_section, item_type
from eagle3.data.sources import Source
from eagle3.errors import UserError
from eagle3.run import External, StatesFrom
from eagle3.workflow.external import locate
from eagle3.workflow.settings import all_settings
from tests.builders.models import save_tokenizer
from tests.rules.workflow import ROOT

EXTERNAL = External((Source("source"),), "s0", "source", "s0", None, "t0", "w0")

# What no output depends on. Everything else must reach a stage.
IRRELEVANT = {
    "dataset.max_bad_fraction": "decides whether a stage fails, never what it writes",
    "resources": "speed and placement",
    "hidden_states.source.check_template": "of imports alone, see the test of their keys",
}
# Keys that lie outside the settings and yet are not lost: what stands for them.
BY_OTHER_MEANS = {
    "dataset.source": "its content's digest",
    "draft.config": "what it says",
    "embedded_target.source": "its content's digest",
    "evaluation.prompts": "names and digests of their contents",
    "target.adapter": "its content's digest",
    "target.model": "digests of its tokenizer and weights",
    "train.warm_start": "its content's digest",
    "hidden_states.source.path": "names and sizes of its files",
    "hidden_states.source.dataset": "names and sizes of its files",
}
# "export" is the one of the first format
WITH_EMBEDDING = {"export_vllm", "export_speculators", "export_hf"}
EVERY = {"regenerate", "tokens", "vocab", "hidden_states", "train", "score", "evaluate", "plan"}
EVERY |= WITH_EMBEDDING
# The first stages that a key reaches; whatever lies below them follows through the chain.
FIRST = {
    "dataset.num_samples": {"vocab", "schedule", "train", "plan"},
    "dataset.shard_size": {"regenerate", "tokens", "vocab", "schedule", "train", "score", "plan"},
    "dataset.regenerate": {"regenerate"},
    "dataset": {"dataset"},
    "embedded_target": {"embedded_target"},
    "tokens.chat_template": {"regenerate", "tokens", "evaluate"},
    "tokens.chat_template_options": {"regenerate", "tokens", "evaluate"},
    "tokens.system_prompt": {"regenerate", "tokens", "evaluate"},
    "tokens": {"tokens"},
    "target.revision": EVERY,
    "target.trust_remote_code": EVERY,
    "target.embedding_key": {"hidden_states", "train", "score", "evaluate", *WITH_EMBEDDING},
    "target.lm_head_key": {"hidden_states", "train", "score", "evaluate"},
    "target.final_norm_key": {"train"},
    "target.dtype": {"regenerate", "hidden_states"},
    "vocab": {"vocab", "plan"},
    "hidden_states.aux_layers": {"hidden_states", "train", "plan"},
    "hidden_states.codec": {"hidden_states", "plan"},
    "hidden_states.backend": {"hidden_states", "plan"},
    "hidden_states.source.kind": {"dataset", "tokens", "hidden_states", "plan"},
    "hidden_states.window_shards": {"schedule", "plan"},
    "hidden_states.keep": {"plan"},  # and the paths of the shards, hence capture and training
    "draft": {"train", "plan"},
    "train.epochs": {"schedule", "train", "plan"},
    "train.epochs_per_stage": {"schedule", "train", "plan"},
    "train.pack_tokens": {"schedule", "train", "plan"},
    "train.packs_per_batch": {"schedule", "train", "plan"},
    "train.precision": {"train", "plan"},
    "train.learning_rate": {"train", "plan"},
    "train.optimizer": {"train", "plan"},
    "train.max_steps": {"schedule", "train", "plan"},
    "train.seed": {"schedule", "train"},
    "train.ttt_steps": {"train", "plan"},
    "train": {"train"},
    "export.formats": set(),
    "export.embedding": WITH_EMBEDDING,
    "export.verifier": {"export_speculators"},
    "export.dtype": {"export", "export_sglang", *WITH_EMBEDDING},
    "export.checkpoint": {"export", "export_sglang", *WITH_EMBEDDING},
    "evaluation.num_speculative_tokens": {"score", "evaluate", "export_speculators"},
    "evaluation.dtype": {"score", "evaluate"},
    "evaluation.held_out_samples": {"score", "plan"},
    "evaluation": {"evaluate"},
    "hardware": {"plan"},
}


def leaves(model: type[BaseModel] = Config, prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every key that holds a value, by its dotted name."""
    for name, field in model.model_fields.items():
        if is_section(field.annotation):
            yield from leaves(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


def another(field: FieldInfo, value: Any) -> Any:
    """A value of the same kind, other than `value`."""
    kinds = alternatives(field.annotation)
    if get_origin(field.annotation) is Literal:
        return next(choice for choice in get_args(field.annotation) if choice != value)
    if bool in kinds:
        return not value
    if item_type(kinds) is not None:
        return [1, 2, 3]
    if is_mapping(kinds[0]):
        return {"more": "other"}
    if int in kinds:
        return 256 if value is None else value + 16 if value > 16 else 1 + value % 16
    if float in kinds:
        return 0.5 if value is None or value != 0.5 else 0.25
    return f"{value or 'x'}-other"


def found(section: dict[str, Any], key: str) -> tuple[dict[str, Any], str]:
    """The section that holds a dotted key, and the key's last part."""
    *path, name = key.split(".")
    for part in path:
        section = section[part]
    return section, name


def listed(table: dict[str, Any], key: str) -> Any:
    """What a table says of a key, or of the nearest section above it."""
    parts = key.split(".")
    for length in range(len(parts), 0, -1):
        entry = table.get(".".join(parts[:length]))
        if entry is not None:
            return entry
    return None


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    """The defaults, with several shards so that every key can change something."""
    return Config.of({"run": "x", "dataset": {"num_samples": 512, "shard_size": 128}}).to_dict()


@pytest.mark.parametrize(("key", "field"), list(leaves()), ids=[k for k, _ in leaves()])
def test_a_key_reaches_the_stages_that_depend_on_it(
    config: dict[str, Any], key: str, field: FieldInfo
) -> None:
    changed = deepcopy(config)
    section, name = found(changed, key)
    values = {
        "dataset.num_samples": 1024,
        "dataset.shard_size": 64,
        "evaluation.held_out_samples": 512,
        "hidden_states.window_shards": 2,
        "export.formats": ["sglang", "hf"],
    }
    section[name] = values.get(key) or another(field, section[name])
    before, after = all_settings(config, EXTERNAL), all_settings(changed, EXTERNAL)
    touched = {stage for stage in before if before[stage].digest != after[stage].digest}
    if listed(IRRELEVANT, key):
        assert touched == set()
        return
    if key in BY_OTHER_MEANS or key == "run":
        # the report shows the whole configuration
        named = {"export_speculators"} if key == "target.model" else set()
        assert touched == {"report"} | named
        return
    first = {stage for stage in touched if before[stage].values != after[stage].values}
    expected = listed(FIRST, key)
    assert expected is not None, f"{key}: say which stages it reaches, or that it is irrelevant"
    if expected == {"embedded_target"}:  # stands for the tokenizer and the weights too
        expected = {"embedded_target", "tokenizer", "weights"}
    assert first - {"report"} == expected
    assert "report" in touched


@pytest.mark.parametrize(
    ("field", "stages"),
    [
        ("source_digest", {"dataset", "tokens", "hidden_states", "train", "evaluate"}),
        ("tokenizer_digest", {"tokens", "hidden_states", "train", "evaluate"}),
        ("weights_digest", {"hidden_states", "train", "evaluate"}),
        ("prompts_digest", {"evaluate"}),
        ("warm_start_digest", {"train", "evaluate"}),
    ],
)
def test_the_content_of_a_file_from_outside_reaches_what_is_made_of_it(
    config: dict[str, Any], field: str, stages: set[str]
) -> None:
    outside = External((Source("source"),), "s0", "", "", "a model", "t0", "w0")
    other = External(**{**vars(outside), field: "other"})
    before, after = all_settings(config, outside), all_settings(config, other)
    touched = {stage for stage in before if before[stage].digest != after[stage].digest}
    assert stages <= touched
    if field == "prompts_digest":
        assert touched == {"prompts", "evaluate", "report"}
    if field == "warm_start_digest":
        assert not {"tokens", "hidden_states", "vocab", "schedule"} & touched
    if field == "weights_digest":
        assert not {"dataset", "tokens", "vocab", "schedule"} & touched


def test_a_draft_to_start_from_is_known_by_its_content_and_not_by_its_place(
    config: dict[str, Any], tmp_path: Path
) -> None:
    def digest(folder: Path) -> str:
        chosen = deepcopy(config)
        chosen["dataset"]["source"] = "data/demo_chat.jsonl"
        chosen["vocab"]["draft_vocab_size"] = 64
        chosen["tokens"]["max_length"] = 512
        chosen["train"]["warm_start"] = str(folder)
        result = locate(chosen, ROOT, tmp_path / "memo.json")
        assert result.warm_start == str(folder)
        return all_settings(chosen, result)["train"].digest

    for name in ("one", "same", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "model.safetensors").write_text("x" if name == "other" else "weights")
    assert digest(tmp_path / "one") == digest(tmp_path / "same") != digest(tmp_path / "other")
    for name in ("one", "same", "other"):  # a file is known by its content and its configuration
        shutil.copy(tmp_path / name / "model.safetensors", tmp_path / name / "draft.bin")
    one, same, other = (tmp_path / name / "draft.bin" for name in ("one", "same", "other"))
    assert digest(one) == digest(same) != digest(other)
    (tmp_path / "one" / "config.json").unlink()
    with pytest.raises(UserError, match=r"train\.warm_start is .* not a draft \(no .*config\.json"):
        digest(tmp_path / "one")


def of_a_copy(config: dict[str, Any], target: Path, model: Path) -> dict[str, Any]:
    """A configuration for a copy of a small target, in the folder `model`."""
    shutil.copytree(target, model)
    save_tokenizer(model)
    config = deepcopy(config)
    config["target"] |= {"model": str(model)}
    config["tokens"] |= {"max_length": 64}
    config["vocab"] |= {"draft_vocab_size": 48}
    config["evaluation"] |= {"max_new_tokens": 32}
    return config


def test_an_adapter_is_known_by_its_content_and_is_part_of_the_weights(
    config: dict[str, Any], targets: dict[str, Path], tmp_path: Path
) -> None:
    """Tokens stay; what the target says or sees is made anew."""
    config = of_a_copy(config, targets["llama"], tmp_path / "model")

    def found(adapter: Path | None) -> External:
        chosen = deepcopy(config)
        chosen["target"]["adapter"] = adapter and str(adapter)
        return locate(chosen, ROOT, tmp_path / "digests.json")

    bare, one = found(None), found(save_adapter(tmp_path / "one", 1))
    again, other = (
        found(save_adapter(tmp_path / "again", 1)),
        found(save_adapter(tmp_path / "b", 2)),
    )
    assert bare.adapter is None and one.adapter == str(tmp_path / "one")
    assert one.weights_digest == again.weights_digest
    assert len({each.weights_digest for each in (bare, one, other)}) == 3
    assert len({each.tokenizer_digest for each in (bare, one, other)}) == 1
    stages = [all_settings(config, each) for each in (bare, one)]
    moved = {name for name in stages[0] if stages[0][name].digest != stages[1][name].digest}
    assert {"weights", "regenerate", "hidden_states", "train", "evaluate"} <= moved
    assert not moved & {"dataset", "tokens", "tokenizer", "vocab", "schedule"}


def test_the_keys_of_a_single_entry_are_part_of_its_source(
    config: dict[str, Any], tmp_path: Path
) -> None:
    def dataset(source: Any) -> str:
        chosen = deepcopy(config)
        chosen["dataset"]["source"] = source
        chosen["target"]["model"] = "embedded"
        chosen["tokens"]["max_length"], chosen["vocab"]["draft_vocab_size"] = 64, 48
        return all_settings(chosen, locate(chosen, ROOT, tmp_path / "memo"))["dataset"].digest

    main, other = ([{"source": "gsm8k", "subset": name}] for name in ("main", "socratic"))
    pinned = [{"source": "gsm8k", "subset": "main", "revision": "abc"}]
    assert len(set(map(dataset, (main, other, pinned)))) == 3
    assert dataset("gsm8k") == dataset(["gsm8k"]) == dataset([{"source": "gsm8k"}])


@pytest.mark.parametrize(
    "name",
    ["spiece.model", "tiktoken.model", "words.tiktoken", "additional_chat_templates/tool.jinja"],
)
def test_every_file_of_a_tokenizer_is_part_of_its_digest(
    config: dict[str, Any], targets: dict[str, Path], tmp_path: Path, name: str
) -> None:
    config = of_a_copy(config, targets["llama"], tmp_path / "model")
    digests = set()
    for text in ("one", "another"):
        file = tmp_path / "model" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        digests.add(locate(config, ROOT, tmp_path / "digests.json").tokenizer_digest)
    assert len(digests) == 2


def save_adapter(folder: Path, seed: int) -> Path:
    """The files that PEFT writes for one matrix of the first layer."""
    folder.mkdir()
    name = "base_model.model.model.layers.0.self_attn.q_proj"
    draw = torch.Generator().manual_seed(seed)
    sides = {"A": (2, 32), "B": (32, 2)}
    tensors = {
        f"{name}.lora_{side}.weight": torch.randn(shape, generator=draw)
        for side, shape in sides.items()
    }
    save_file(tensors, folder / "adapter_model.safetensors")
    said = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(said))
    return folder


def test_the_configuration_of_a_draft_is_known_by_what_it_says(
    config: dict[str, Any], tmp_path: Path
) -> None:
    def digests(text: str, name: str = "draft.json") -> dict[str, str]:
        (tmp_path / name).write_text(text)
        chosen = deepcopy(config)
        chosen["dataset"]["source"] = "data/demo_chat.jsonl"
        chosen["vocab"]["draft_vocab_size"] = 64
        chosen["tokens"]["max_length"] = 512
        chosen["draft"]["config"] = str(tmp_path / name)
        settings = all_settings(chosen, locate(chosen, ROOT, tmp_path / "memo.json"))
        return {stage: one.digest for stage, one in settings.items()}

    def touched(one: dict[str, str], other: dict[str, str]) -> set[str]:
        return {stage for stage in one if one[stage] != other[stage]}

    narrow = digests('{"intermediate_size": 64}')
    # a key that says nothing about the draft, and another place
    assert touched(narrow, digests('{"torch_dtype": "x", "intermediate_size": 64}')) == set()
    moved = digests('{"intermediate_size": 64}', "moved.json")
    assert touched(narrow, moved) == {"report"}
    wide = touched(narrow, digests('{"intermediate_size": 128}'))
    assert {"train", "plan", "score", "export"} <= wide
    assert not {"tokens", "vocab", "schedule", "hidden_states"} & wide
    layers = (
        '{"intermediate_size": 64, "eagle_config": {"eagle_aux_hidden_state_layer_ids": [1,2,3]}}'
    )
    assert "hidden_states" in touched(narrow, digests(layers))
    deep = touched(narrow, digests('{"intermediate_size": 64, "num_hidden_layers": 2}'))
    assert {"train", "plan"} <= deep and "hidden_states" not in deep
    with pytest.raises(UserError, match="attention_bias = true; a draft here has false"):
        digests('{"attention_bias": true}')
    slides = '{"sliding_window": 64, "layer_types": ["sliding_attention"]}'
    with pytest.raises(UserError, match=r"sglang.* but draft\.sliding_window is 64: SGLang"):
        digests(slides)
    with pytest.raises(UserError, match="hidden_size 4096, the target's is 128"):
        digests('{"hidden_size": 4096}')


def test_a_folder_and_a_missing_file_of_a_drafts_configuration(
    config: dict[str, Any], tmp_path: Path
) -> None:
    chosen = deepcopy(config)
    chosen["dataset"]["source"] = "data/demo_chat.jsonl"
    chosen["vocab"]["draft_vocab_size"] = 64
    chosen["tokens"]["max_length"] = 512
    (tmp_path / "config.json").write_text('{"num_key_value_heads": 1, "fc_norm": true}')
    chosen["draft"]["config"] = str(tmp_path)
    result = locate(chosen, ROOT, tmp_path / "memo.json")
    assert result.draft_config == {"num_key_value_heads": 1, "fc_norm": True}
    values = all_settings(chosen, result)["train"].values["draft"]
    assert (values["num_key_value_heads"], values["fc_norm"], values["head_dim"]) == (1, True, None)
    assert "config" not in values
    chosen["draft"]["config"] = "someone/a-draft"
    with pytest.raises(UserError, match="for a model of the Hugging Face hub write hub:someone/a-"):
        locate(chosen, ROOT, tmp_path / "memo.json")


COMMIT = "0123456789" * 4
ASKED = """
import json, sys
from pathlib import Path
from eagle3.config.configuration import Config
from eagle3.draft.weight_files import draft_folder
from eagle3.errors import UserError
from eagle3.workflow.external import locate
try:
    config = Config.of(json.loads(sys.argv[1])).to_dict()
    found = locate(config, Path(sys.argv[2]), Path("memo.json"))
    folder = found.warm_start and draft_folder(found.warm_start)
    inside = sorted(path.name for path in folder.iterdir()) if folder else []
    print(json.dumps([found.draft_config, found.warm_start, found.warm_start_digest, inside]))
except UserError as fault:
    print(json.dumps(str(fault)))
"""


def test_a_draft_of_the_hub_is_known_by_its_commit(tmp_path: Path) -> None:
    """From the hub's own cache here; without network and cache it is one sentence."""
    repository = tmp_path / "hub" / "models--someone--a-draft"
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text('{"intermediate_size": 64}')
    (snapshot / "model.safetensors").write_text("weights")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    environment = os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    environment["PYTHONPATH"] = str(ROOT)
    environment.pop("HF_HUB_CACHE", None)
    fitting = {
        "run": "x",
        "dataset": {"source": "data/demo_chat.jsonl"},
        "vocab": {"draft_vocab_size": 64},
        "tokens": {"max_length": 512},
    }

    def said(**sections: dict[str, str]) -> Any:
        given = json.dumps(fitting | sections)
        command = [sys.executable, "-c", ASKED, given, str(ROOT)]
        done = subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
        )
        return json.loads(done.stdout)

    place = f"hub:someone/a-draft@{COMMIT}"
    both = {"draft": {"config": "hub:someone/a-draft"}}
    both |= {"train": {"warm_start": "hub:someone/a-draft"}}
    files = ["config.json", "model.safetensors"]
    assert said(**both) == [{"intermediate_size": 64}, place, place, files]
    (snapshot / "model.safetensors").rename(snapshot / "pytorch_model.bin")
    assert said(**both)[3] == ["config.json", "pytorch_model.bin"]
    for section, key in (("draft", "config"), ("train", "warm_start")):
        refusal = said(**{section: {key: "hub:someone/another"}})
        assert refusal.startswith(f"{section}.{key}: cannot fetch hub:someone/another: ")
        assert len(refusal.splitlines()) == 1


def test_the_source_of_the_embedded_target_reaches_it(config: dict[str, Any]) -> None:
    other = External(**{**vars(EXTERNAL), "embedded_digest": "other"})
    before, after = all_settings(config, EXTERNAL), all_settings(config, other)
    assert before["embedded_target"].digest != after["embedded_target"].digest
    assert before["dataset"].digest == after["dataset"].digest
    assert before["tokens"].digest != after["tokens"].digest


@pytest.mark.parametrize(("tied", "captures"), [(None, True), (True, True), (False, False)])
def test_the_embeddings_name_reaches_the_capture_unless_the_files_hold_a_head(
    config: dict[str, Any], tied: bool | None, captures: bool
) -> None:
    external = External(**{**vars(EXTERNAL), "tied": tied})
    renamed = deepcopy(config)
    renamed["target"]["embedding_key"] = "other"
    before, after = all_settings(config, external), all_settings(renamed, external)
    assert (before["hidden_states"] != after["hidden_states"]) == captures
    assert before["train"] != after["train"]


IMPORTED = External(
    (),
    "",
    "source",
    "s0",
    "a model",
    "t0",
    "w0",
    states=StatesFrom("specforge", "a folder", None, "f"),
)
OF_IMPORTS: dict[str, tuple[Any, set[str]]] = {
    "hidden_states.codec": ("int8", {"hidden_states", "plan"}),
    "hidden_states.aux_layers": ([1, 2, 3], {"dataset", "hidden_states", "train", "plan"}),
    "hidden_states.backend": ("sglang", set()),
    "hidden_states.source.check_template": (False, {"dataset", "hidden_states", "plan"}),
    "hidden_states.source.path": ("elsewhere", set()),
    "target.final_norm_key": ("other", {"dataset", "hidden_states", "train"}),
    "target.dtype": ("float32", {"dataset", "regenerate", "hidden_states"}),
    "tokens.max_length": (512, {"tokens"}),
    "tokens.rewritten_turns": ("drop", set()),
    "tokens.chat_template": ("llama3", {"dataset", "regenerate", "tokens", "evaluate"}),
    "dataset.seed": (1, {"dataset"}),
    "dataset.source": ("other.jsonl", set()),
    "dataset.num_samples": (1024, {"vocab", "schedule", "train", "plan"}),
    "train.learning_rate": (0.5, {"train", "plan"}),
}


@pytest.mark.parametrize("key", OF_IMPORTS)
def test_a_key_of_an_import_reaches_what_is_made_of_the_files(
    config: dict[str, Any], key: str
) -> None:
    value, expected = OF_IMPORTS[key]
    base = deepcopy(config)
    base["hidden_states"]["source"] |= {"kind": "specforge", "path": "a folder"}
    changed = deepcopy(base)
    section, name = found(changed, key)
    section[name] = value
    before, after = all_settings(base, IMPORTED), all_settings(changed, IMPORTED)
    first = {stage for stage in before if before[stage].values != after[stage].values}
    assert first - {"report"} == expected


def test_other_files_of_an_import_reach_everything(config: dict[str, Any]) -> None:
    config = deepcopy(config)
    config["hidden_states"]["source"] |= {"kind": "specforge", "path": "a folder"}
    other = replace(IMPORTED, states=StatesFrom("specforge", "elsewhere", None, "other files"))
    before, after = all_settings(config, IMPORTED), all_settings(config, other)
    touched = {stage for stage in before if before[stage].digest != after[stage].digest}
    assert {"dataset", "tokens", "hidden_states", "train", "evaluate", "plan"} <= touched


def test_states_of_another_run_change_no_settings(config: dict[str, Any]) -> None:
    shared = deepcopy(config)
    shared["hidden_states"]["source"] |= {"kind": "run", "path": "results/other"}
    before, after = all_settings(config, EXTERNAL), all_settings(shared, EXTERNAL)
    assert {s for s in before if before[s].digest != after[s].digest} == {"report"}


def test_a_window_of_all_shards_is_no_window(config: dict[str, Any]) -> None:
    larger = deepcopy(config)
    larger["hidden_states"]["window_shards"] = 99
    before, after = all_settings(config, EXTERNAL), all_settings(larger, EXTERNAL)
    assert {name: s.digest for name, s in before.items()} == {n: s.digest for n, s in after.items()}


@pytest.mark.parametrize("backend", ["hf", "sglang", "vllm"])
def test_the_final_norm_reaches_the_captures_of_an_engine_that_reads_it(
    config: dict[str, Any], backend: str
) -> None:
    """vLLM returns the last state from before the norm."""
    changed = deepcopy(config)
    changed["hidden_states"]["backend"] = backend
    before = all_settings(changed, EXTERNAL)["hidden_states"]
    changed["target"]["final_norm_key"] = "another.norm.weight"
    after = all_settings(changed, EXTERNAL)["hidden_states"]
    assert (before.digest != after.digest) == (backend == "vllm")
