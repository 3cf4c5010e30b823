"""The capture rule with SGLang, as Snakemake starts it."""

from __future__ import annotations

from eagle3.files.artifact import read_json
from eagle3.store.layout import CHECK_KIND
from tests.builders.engine import ON_CPU
from tests.rules.workflow import snakemake

SHARD = "results/small/hidden_states/train/shard-00000.safetensors"


def test_the_rule_captures_through_sglang_and_checks_itself(engine_python, tmp_path):
    change = {
        "target": {"dtype": "float32"},
        "hidden_states": {"backend": "sglang", "codec": "fp8_e4m3"},
        "resources": {"capture": {"sglang_python": engine_python, "sglang_arguments": ON_CPU}},
    }
    outcome = snakemake(tmp_path, change=change, target=SHARD)
    assert outcome.code == 0, outcome.text[-6000:]
    report, _ = read_json((tmp_path / SHARD).with_suffix(".check.json"), CHECK_KIND)
    assert report["aux_layers"] == [1, 3, 4] and min(report["cosines"].values()) > 0.9999
    outcome = snakemake(tmp_path, "--dry-run", change=change, target=SHARD)
    assert outcome.idle, outcome.text[-3000:]
