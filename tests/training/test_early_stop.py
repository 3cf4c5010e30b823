"""A stage that is not trained has the checkpoint of the one before it."""

from __future__ import annotations

import pytest
import torch

from eagle3.errors import UserError
from eagle3.training.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from eagle3.training.early_stop import carry_on
from tests.builders.shards import stage_settings

SETTINGS = stage_settings("train", train={"early_stop_patience": 1})


def test_the_checkpoint_is_handed_on_and_marked(tmp_path):
    state = {"global_step": 7, "total_steps": 20, "stage": 2, "draft": {}, "inputs": {"a": "b"}}
    tensors = {"w": torch.arange(4.0)}, {"m": torch.ones(4)}
    write_checkpoint(tmp_path / "2", Checkpoint(*tensors, state), SETTINGS, {})
    carry_on(tmp_path / "2", 3, SETTINGS, "code", tmp_path / "metrics.jsonl", tmp_path / "3")
    result = read_checkpoint(tmp_path / "3", SETTINGS.digest)
    assert torch.equal(result.model["w"], tensors[0]["w"])
    assert torch.equal(result.optimizer["m"], tensors[1]["m"])
    marks = {"stage": 3, "stopped_early": True, "inputs": {"code": "code"}}
    assert result.state == state | marks
    assert (tmp_path / "metrics.jsonl").read_text() == ""


def test_a_checkpoint_of_other_settings_is_not_handed_on(tmp_path):
    state = {"global_step": 7, "total_steps": 20, "stage": 1, "draft": {}}
    written = Checkpoint({"w": torch.ones(1)}, {"m": torch.ones(1)}, state)
    write_checkpoint(tmp_path / "1", written, stage_settings("train"), {})
    with pytest.raises(UserError, match="settings"):
        carry_on(tmp_path / "1", 2, SETTINGS, "code", tmp_path / "m.jsonl", tmp_path / "2")
