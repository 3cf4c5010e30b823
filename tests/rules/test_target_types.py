"""Whole runs over targets whose shape no draft can have, and with a draft's own configuration."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.builders.shrunken import TYPES, VOCAB, save_shrunken
from tests.rules.test_presets import SIZES
from tests.rules.workflow import ROOT, merged, snakemake

# a published draft's form, with nothing of its target
OWN = {
    "architectures": ["LlamaForCausalLMEagle3"],
    "model_type": "llama",
    "hidden_size": 64,
    "vocab_size": VOCAB,
    "draft_vocab_size": 128,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "intermediate_size": 96,
    "max_position_embeddings": 512,
    "rope_theta": 77.0,
    "rope_scaling": None,
    "eagle_config": {"eagle_aux_hidden_state_layer_ids": [0, 2, 5]},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders in which every type's jobs were run, with what was planned."""
    folders = {}
    for name in TYPES:
        folder = folders[name] = tmp_path_factory.mktemp(name)
        model = save_shrunken(folder / "model", name)
        change: dict[str, Any] = merged(SIZES, {"run": name, "target": {"model": str(model)}})
        if name == "glm4":
            (folder / "own.json").write_text(json.dumps(OWN))
            change["draft"] = {"config": "own.json", "fc_norm": True}
        small = folder / "small.yaml"
        small.write_text(yaml.safe_dump(change))
        plan = snakemake(folder, "-n", "--printshellcmds", overlay=small)
        assert plan.code == 0, plan.text[-3000:]
        (folder / "planned.txt").write_text(plan.text)
    subprocess.run(
        [sys.executable, "-m", "tests.builders.in_one_process", *folders.values()],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        check=True,
    )
    return folders


def exported(folder: Path, name: str) -> dict[str, Any]:
    assert (folder / "code.txt").read_text() == "0", (folder / "output.txt").read_text()[-4000:]
    out = folder / "results" / name
    figures = json.loads((out / "evaluation" / "acceptance.json").read_text())
    assert figures["greedy_identical"] is True and figures["prompts"] == 2
    return json.loads((out / "draft" / "sglang" / "config.json").read_text())


@pytest.mark.dag
@pytest.mark.long
@pytest.mark.parametrize("name", [name for name in TYPES if name != "glm4"])
def test_a_target_of_another_shape_has_a_draft_with_plain_positions(
    made: dict[str, Path], name: str
) -> None:
    draft = exported(made[name], name)
    theta = TYPES[name][2]["rope_parameters"]
    theta = theta.get("full_attention", theta)["rope_theta"]
    assert draft["rope_parameters"] == {"rope_type": "default", "rope_theta": theta}
    assert (draft["head_dim"], draft["num_attention_heads"]) == (16, 4)
    said = f"plain, over whole heads, with theta {theta:.10g}"
    # before any job, by the plan, and in the report
    for file in ("planned.txt", "output.txt", f"results/{name}/report.html"):
        assert said in (made[name] / file).read_text(), file


@pytest.mark.dag
@pytest.mark.long
def test_a_draft_of_ones_own_is_trained_exported_and_decoded(made: dict[str, Path]) -> None:
    draft = exported(made["glm4"], "glm4")
    for key, value in OWN.items():
        if key not in ("rope_scaling", "eagle_config"):
            assert draft[key] == value, key
    assert draft["eagle_config"]["eagle_aux_hidden_state_layer_ids"] == [0, 2, 5]
    assert draft["rope_parameters"] == {"rope_type": "default", "rope_theta": 77.0}
    assert (draft["head_dim"], draft["fc_norm"], draft["norm_output"]) == (8, True, False)
