"""Presets are overlays of the real configuration: their DAG is known before any download, and each
passes through the whole pipeline on a small random copy of its target."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.startup import planned
from eagle3.config.configuration import Config
from eagle3.workflow.external import locate
from eagle3.workflow.settings import all_settings
from tests.builders.shrunken import SHAPES, save_shrunken
from tests.rules.workflow import ROOT, merged, snakemake

PRESETS = sorted((ROOT / "presets").glob("*.yaml"))
# what a small copy on a CPU needs otherwise; all else is the preset's own
WIDTH = 96  # where a preset gives the MLP a width
SIZES: dict[str, Any] = {
    "dataset": {"source": "data/demo_chat.jsonl", "num_samples": 8, "shard_size": 8},
    "tokens": {"max_length": 256},
    "vocab": {"draft_vocab_size": 128},
    "hidden_states": {"backend": "hf"},
    "train": {"epochs": 1, "ttt_steps": 2, "pack_tokens": 512, "packs_per_batch": 2},
    "evaluation": {"num_prompts": 2, "max_new_tokens": 12, "dtype": "float32"},
    "resources": {
        "device": "cpu",
        "capture": {"threads": 1, "tensor_parallel": 1, "batch_tokens": 2048},
        "train": {"threads": 1, "processes": 1, "sp_ulysses_size": 1},
        "evaluate": {"threads": 1},
    },
}
SHARED_PACKS = {"resources": {"train": {"processes": 2, "sp_ulysses_size": 2}}}


DRAWN = (
    *("hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim"),
    *("intermediate_size", "rope_parameters"),
)


def plain_rope(theta: float) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": "default", "rope_theta": theta}}


# where the draft is not shaped as the target (docs/targets.md)
DIFFERENT: dict[str, dict[str, Any]] = {
    # a width that the target does not have: the preset gives it, or 3.5 times the hidden size
    "qwen3-next-80b-a3b": plain_rope(1e7),
    "qwen3.6-27b": plain_rope(1e7) | {"num_attention_heads": 5},
    "qwen3.6-35b-a3b": plain_rope(1e7),
    "gemma3-27b": plain_rope(1e6),
    "glm4.5-air": plain_rope(1e6) | {"num_attention_heads": 8},
    "glm4.6": plain_rope(1e6) | {"num_attention_heads": 10},
    "phi4-mini": plain_rope(1e4),
    "llama4-scout": {"intermediate_size": 128},
}


def small(given: dict[str, Any]) -> dict[str, Any]:
    """Section `draft` of a preset for a small copy of its target."""
    sizes = {"intermediate_size": WIDTH, "head_dim": 16, "sliding_window": 16}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    return {key: (sizes | heads)[key] for key in given}


def shares_packs(given: dict[str, Any]) -> bool:
    """Whether the ranks of a preset's training share every pack."""
    return given["resources"]["train"].get("sp_ulysses_size", 1) > 1


def overlay(preset: Path) -> dict[str, Any]:
    return yaml.safe_load(preset.read_text())


def target_name(preset: Path) -> str:
    """The preset's name without that of its data."""
    return preset.stem.rsplit("-", 1)[0]


def test_every_preset_has_a_small_copy_of_its_target() -> None:
    assert {target_name(preset) for preset in PRESETS} == set(SHAPES)


@pytest.mark.parametrize("preset", PRESETS, ids=lambda p: p.stem)
def test_a_preset_is_a_valid_overlay_named_as_its_file(preset: Path) -> None:
    config = Config.of(overlay(preset)).to_dict()
    assert config["run"] == preset.stem
    assert config["target"]["model"].startswith("hub:")
    assert f"--configfile presets/{preset.name} -- train" in preset.read_text()


@pytest.mark.parametrize("preset", PRESETS, ids=lambda p: p.stem)
def test_a_preset_names_only_what_differs_from_the_defaults(preset: Path) -> None:
    default = Config.of({"run": "any"}).to_dict()
    assert list(repeated(overlay(preset), default)) == []
    assert list(repeated({"train": {"epochs": 10, "seed": 1}}, default)) == ["train.epochs"]


def repeated(named: dict[str, Any], default: dict[str, Any], place: str = "") -> Iterator[str]:
    """Keys of a configuration that have the values they would have anyway."""
    for key, value in named.items():
        if isinstance(value, dict) and default.get(key):
            yield from repeated(value, default[key], f"{place}{key}.")
        elif value == default.get(key):
            yield f"{place}{key}"


def of_data(*data: str) -> list[Any]:
    """Presets as parameters; those of other data than `data` are planned with the long tests."""
    return [
        pytest.param(p, id=p.stem, marks=[] if p.stem.endswith(data) else [pytest.mark.long])
        for p in PRESETS
    ]


@pytest.mark.parametrize("preset", PRESETS, ids=lambda p: p.stem)
def test_a_preset_is_legal_as_far_as_it_can_be_known_without_network(
    tmp_path: Path, preset: Path
) -> None:
    config = Config.of(overlay(preset)).to_dict()
    found = locate(config, ROOT, tmp_path / "digests.json")
    assert found.target == config["target"]["model"]
    assert {"train", "evaluate", "report"} <= all_settings(config, found).keys()


@pytest.mark.dag
@pytest.mark.parametrize("preset", of_data("perfectblend", "longalign"))
def test_a_preset_plans_its_whole_dag_without_network(tmp_path: Path, preset: Path) -> None:
    config = Config.of(overlay(preset)).to_dict()
    outcome = snakemake(tmp_path, "-n", "--quiet", "rules", overlay=preset)
    assert outcome.code == 0, outcome.text[-3000:]
    jobs = dict(line.split()[:2] for line in outcome.text.splitlines() if len(line.split()) == 2)
    shards = config["dataset"]["num_samples"] // config["dataset"]["shard_size"]
    assert jobs["hidden_states"] == str(shards)
    assert int(jobs["tokens"]) == shards + int(jobs["held_out_states"])
    assert jobs["train_stage"] == str(config["train"]["epochs"])
    assert "embedded_target" not in jobs


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders in which every preset's jobs were run, by the preset's name."""
    folders = {}
    for preset in PRESETS:
        folder = folders[preset.stem] = tmp_path_factory.mktemp(preset.stem)
        given = overlay(preset)
        model = save_shrunken(folder / "model", target_name(preset))
        change = merged(given, merged(SIZES, {"target": {"model": str(model)}}))
        if shares_packs(given):
            change = merged(change, SHARED_PACKS)
        change = merged(change, {"draft": small(given.get("draft", {}))})
        overlaid = folder / "small.yaml"
        overlaid.write_text(yaml.safe_dump(change))
        plan = snakemake(folder, "-n", "--printshellcmds", overlay=overlaid)
        assert plan.code == 0, plan.text[-3000:]
        assert len(list(planned(plan.text))) == plan.jobs.total()
        (folder / "planned.txt").write_text(plan.text)
    subprocess.run(
        [sys.executable, "-m", "tests.builders.in_one_process", *folders.values()],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        check=True,
    )
    return folders


@pytest.mark.dag
@pytest.mark.long
@pytest.mark.parametrize("preset", PRESETS, ids=lambda p: p.stem)
def test_a_preset_makes_a_draft_of_a_small_copy_of_its_target(
    made: dict[str, Path], preset: Path
) -> None:
    folder = made[preset.stem]
    assert (folder / "code.txt").read_text() == "0", (folder / "output.txt").read_text()[-4000:]
    out = folder / "results" / preset.stem
    figures = json.loads((out / "evaluation" / "acceptance.json").read_text())
    assert figures["greedy_identical"] is True and figures["prompts"] == 2
    form = overlay(preset).get("export", {}).get("formats", ["sglang"])[0]
    draft = json.loads((out / "draft" / form / "config.json").read_text())
    shape = SHAPES[target_name(preset)][2]
    expected = {key: shape[key] for key in DRAWN} | DIFFERENT.get(target_name(preset), {})
    expected |= small(overlay(preset).get("draft", {}))
    for key, value in expected.items():
        assert draft[key] == value, key
    assert (out / "report.html").read_text().count("<svg") >= 4
