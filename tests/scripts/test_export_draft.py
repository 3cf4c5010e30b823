"""The script of the export rule, as the rule calls it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from eagle3.export.formats import format_of
from eagle3.export.load import load_draft
from eagle3.target_model.weights import TargetWeights
from tests.builders.run_file import PATHS, save_run
from tests.builders.shards import (
    TARGET_KEYS,
    TRAIN,
    changed,
    stage_settings,
    train_draft,
    training_set,
)

ROOT = Path(__file__).resolve().parents[2]
EXPORT = {"dtype": "float32", "embedding": True, "verifier": None}


def test_the_speculators_form_names_the_target_and_holds_its_embedding(targets, tmp_path):
    made = training_set(
        tmp_path, targets["sharded"], changed(TRAIN, epochs=1, epochs_per_stage=1), documents=8
    )
    draft, _ = train_draft(made, tmp_path)
    settings = stage_settings(
        "export_speculators",
        {"train": made.settings.digest, "vocab": stage_settings("vocab").digest},
        export=EXPORT,
        target=TARGET_KEYS,
        evaluation={"num_speculative_tokens": 4},
    )
    run = save_run(tmp_path, [settings], targets["sharded"])
    command = [sys.executable, "-m", "workflow_scripts.export_draft", "--run-file", str(run)]
    command += ["--checkpoint", "out/model.safetensors", "--out", PATHS.draft("speculators")]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr

    folder = (tmp_path / PATHS.draft("speculators")).parent
    assert format_of(folder).name == "speculators"
    back, mapping = load_draft(folder, settings.digest)
    for name, weight in draft.state_dict().items():
        assert torch.equal(back.state_dict()[name], weight), name
    assert (mapping.t2d == made.mapping.t2d).all()
    tensors = load_file(folder / "model.safetensors")
    own = TargetWeights(targets["sharded"]).read("model.embed_tokens.weight", "embedding_key")
    assert torch.equal(tensors["embed_tokens.weight"], own.float())
    result = json.loads((folder / "config.json").read_text())["speculators_config"]
    assert result["verifier"] == {
        "name_or_path": str(targets["sharded"]),
        "architectures": ["LlamaForCausalLM"],
    }
    assert result["proposal_methods"][0]["speculative_tokens"] == 4
