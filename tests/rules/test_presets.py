"""Presets are overlays of the real configuration, and their DAG is known before any download."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from workflow import ROOT, merged, snakemake

from eagle3.config import complete, load_schema
from rules.preflight import inherited

PRESETS = sorted((ROOT / "presets").glob("*.yaml"))


@pytest.mark.parametrize("preset", PRESETS, ids=lambda p: p.stem)
def test_a_preset_is_a_valid_overlay_named_as_its_file(preset: Path) -> None:
    overlay = yaml.safe_load(preset.read_text())
    base = yaml.safe_load((ROOT / "config.yaml").read_text())
    config = complete(merged(base, overlay), load_schema(ROOT / "config.schema.yaml"))
    assert config["run"] == preset.stem
    assert config["target"]["model"].startswith("hub:")


@pytest.mark.parametrize("preset", PRESETS, ids=lambda p: p.stem)
def test_a_preset_takes_no_value_of_the_tiny_demo(preset: Path) -> None:
    base = yaml.safe_load((ROOT / "config.yaml").read_text())
    overlay = yaml.safe_load(preset.read_text())
    assert inherited(base, overlay, overlay["target"]["model"]) == []
    assert "train.learning_rate = 0.008" in inherited(base, {}, "models/mine")
    assert inherited(base, {}, "embedded") == []


@pytest.mark.dag
def test_a_preset_plans_its_whole_dag_without_network(tmp_path: Path) -> None:
    overlay = yaml.safe_load((ROOT / "presets" / "qwen3-30b-a3b-sharegpt.yaml").read_text())
    outcome = snakemake(tmp_path, "-n", change=overlay)
    assert outcome.code == 0, outcome.text[-3000:]
    shards = overlay["dataset"]["num_samples"] // overlay["dataset"]["shard_size"]
    assert outcome.jobs["hidden_states"] == outcome.jobs["tokens"] - 1 == shards
    assert outcome.jobs["held_out_states"] == 1
    assert outcome.jobs["train_stage"] == overlay["train"]["epochs"]
    assert "embedded_target" not in outcome.jobs
