"""The final norm by itself gives what the whole model gives."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from eagle3.engines.hf import HFTarget
from eagle3.errors import UserError
from eagle3.target_model.final_norm import load_final_norm
from tests.builders.models import KINDS, save_model, save_wrapper


@pytest.mark.parametrize("kind", [*KINDS, "gemma3", "llava"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_state_before_it_becomes_the_one_behind_it(tmp_path: Path, kind: str, dtype: str) -> None:
    save = save_model if kind in KINDS else save_wrapper
    folder = save(tmp_path / kind, kind)
    target = HFTarget.load(folder, (1, 2, 3), dtype)
    before: list[torch.Tensor] = []
    target.body.norm.register_forward_pre_hook(lambda _, inputs: before.append(inputs[0][0]))
    _, last = target.flat_states([torch.arange(3, 20)])
    norm = load_final_norm(folder, "model.norm.weight", target.dtype)
    assert torch.equal(norm(before[0]), last)
    assert not torch.allclose(before[0].float(), last.float(), atol=0.05)


def test_a_name_that_is_no_norm_is_one_sentence(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "llama", "llama")
    with pytest.raises(UserError, match=r"target\.final_norm_key is 'model.nothing.weight', which"):
        load_final_norm(folder, "model.nothing.weight", torch.float32)
    key = "model.layers.0.input_layernorm.weight"
    with pytest.raises(UserError, match="which is no module of a LlamaModel"):
        load_final_norm(folder, key, torch.float32)
