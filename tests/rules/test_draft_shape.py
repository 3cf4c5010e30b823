"""Whole runs with drafts that read another number of layers, and that have several."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.rules.workflow import snakemake

FORMATS = ["sglang", "vllm", "speculators", "hf"]
SHAPES: dict[str, dict[str, Any]] = {
    "two": {"hidden_states": {"aux_layers": [2, 5]}, "draft": {"num_hidden_layers": 2}},
    "five": {"hidden_states": {"aux_layers": [0, 1, 3, 5, 6]}, "draft": {"fc_norm": True}},
}


@pytest.mark.dag
@pytest.mark.long
@pytest.mark.parametrize("name", SHAPES)
def test_another_shape_is_trained_exported_and_decoded(tmp_path: Path, name: str) -> None:
    change = {**SHAPES[name], "run": name, "export": {"formats": FORMATS, "verifier": "a/b"}}
    outcome = snakemake(tmp_path, change=change)
    assert outcome.code == 0, outcome.text[-6000:]
    out, layers = tmp_path / "results" / name, change["hidden_states"]["aux_layers"]
    figures = json.loads((out / "evaluation" / "acceptance.json").read_text())
    assert figures["greedy_identical"] is True and figures["prompts"] == 2
    plan = json.loads((out / "plan.json").read_text())
    (checkpoint,) = (out / "checkpoints").glob("stage-0001")
    weights = load_file(checkpoint / "model.safetensors")
    numbers = sum(weight.numel() for weight in weights.values())
    assert plan["draft_parameters"] == numbers
    depth = change["draft"].get("num_hidden_layers", 1)
    said = f"This {'one' if depth == 1 else depth}-layer model"
    assert said in (out / "draft" / "sglang" / "README.md").read_text()
    for form in FORMATS:
        written = json.loads((out / "draft" / form / "config.json").read_text())
        layer = written.get("transformer_layer_config", written)
        assert layer["num_hidden_layers"] == depth
        assert layer["num_aux_hidden_states"] == len(layers)
        tensors = load_file(out / "draft" / form / "model.safetensors")
        assert tuple(tensors["fc.weight"].shape) == (32, 32 * len(layers))
        assert any(tensor.startswith("layers.1.") for tensor in tensors) is (depth > 1)
    said = f"outputs of {', '.join(map(str, layers))} (0-based)"
    assert said in (out / "report.html").read_text()
