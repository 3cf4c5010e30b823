"""The stored teacher chooses what the target itself does, or the shard is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from eagle3.capture.self_check import check_shard
from eagle3.engines.hf import HFTarget
from eagle3.errors import UserError
from eagle3.target_model.layers import aux_layers
from tests.builders.models import LAYERS
from tests.builders.shards import captured, chats, open_target, token_shard

LAYER_IDS = aux_layers(None, LAYERS)


@pytest.mark.parametrize("kind", ["llama", "tied", "qwen3", "qwen3_moe"])
def test_a_right_capture_chooses_as_the_target_does(
    targets: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    tokens = token_shard(tmp_path / "tokens.safetensors", chats(6))
    path = tmp_path / "states.safetensors"
    captured(path, targets[kind], tmp_path / "tokens.safetensors")
    engine, head = open_target(targets[kind])
    assert check_shard(path, tokens, engine, LAYER_IDS, None, head)
    ids = torch.arange(3, 20)
    states = engine.every_state(ids)[1][-4:]
    assert torch.equal(engine.own_choices(ids, 4, head), head.logits(states).argmax(-1))


class BeforeTheNorm(HFTarget):
    """An engine that returns the state that the final norm reads, in capture and check alike."""

    def _run(self, input_ids: torch.Tensor, cache: Any = None) -> Any:
        kept: list[torch.Tensor] = []
        hook = self.body.norm.register_forward_hook(lambda _m, inputs, _o: kept.append(inputs[0]))
        captured, _ = super()._run(input_ids, cache)
        hook.remove()
        return captured, kept[0]

    def every_state(self, ids: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        return super().every_state(ids)[0], self.states(ids[None])[1][0]


def test_states_from_before_the_norm_are_refused(
    targets: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cosines cannot tell: both sides make the same mistake."""
    tokens = token_shard(tmp_path / "tokens.safetensors", chats(6, shortest=20))
    path = tmp_path / "states.safetensors"
    monkeypatch.setattr("eagle3.capture.job.HFTarget", BeforeTheNorm)
    captured(path, targets["llama"], tmp_path / "tokens.safetensors")
    engine = BeforeTheNorm.load(targets["llama"], LAYER_IDS, "float32")
    _, head = open_target(targets["llama"])
    # gains and widths of the norm differ from one, so most choices do too
    engine.body.norm.weight.data[::2] *= -1
    assert check_shard(path, tokens, engine, LAYER_IDS)
    with pytest.raises(UserError, match=r"`last` is not what the target's head reads"):
        check_shard(path, tokens, engine, LAYER_IDS, None, head)


def test_another_head_is_refused(targets: dict[str, Path], tmp_path: Path) -> None:
    tokens = token_shard(tmp_path / "tokens.safetensors", chats(6))
    path = tmp_path / "states.safetensors"
    captured(path, targets["llama"], tmp_path / "tokens.safetensors")
    engine, head = open_target(targets["llama"])
    with pytest.raises(UserError, match=r"check target\.lm_head_key"):
        check_shard(path, tokens, engine, LAYER_IDS, None, type(head)(head.weight.roll(7, 0)))
