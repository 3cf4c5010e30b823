"""Held-out shards stay small where shards of training are large."""

from __future__ import annotations

from pathlib import Path

import pytest

from eagle3.config.configuration import Config
from eagle3.run import load_run
from eagle3.workflow.settings import all_settings
from tests.builders.run_file import save_run


@pytest.mark.parametrize(
    ("shard_size", "held_out", "shards", "rows"),
    [(64, 128, 2, 64), (256, 128, 1, 256), (300, 257, 2, 256), (8192, 128, 1, 256)],
)
def test_a_large_shard_of_training_holds_out_no_more(
    tmp_path: Path, shard_size: int, held_out: int, shards: int, rows: int
) -> None:
    sections = {
        "dataset": {"shard_size": shard_size, "num_samples": 2 * shard_size},
        "evaluation": {"held_out_samples": held_out},
    }
    run = load_run(save_run(tmp_path, [], "a target", **sections))
    assert len(run.held_out) == shards
    dataset = run.config.dataset
    assert dataset.rows_of_shard("eval") == rows
    assert dataset.rows_of_shard("train") == shard_size
    # what a changed number re-runs is counted in the same shards
    config = Config.of({"run": "any", **sections}).to_dict()
    score = all_settings(config, run.external)["score"]
    assert score.values["evaluation"]["held_out_shards"] == shards
