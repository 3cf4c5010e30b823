"""The self-check lets rounding pass, more of it where a target has more, and no other layer."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from eagle3.capture.job import CaptureJob
from eagle3.capture.self_check import check_shard
from eagle3.capture.shard_capture import capture
from eagle3.engines.hf import HFTarget
from eagle3.errors import UserError
from eagle3.target_model.layers import aux_layers
from eagle3.target_model.rounding import NOISY, PLAIN, least_cosine, most_different
from tests.builders.models import LAYERS, save_model
from tests.builders.shards import ALONE, chats, state_settings, token_shard

LAYER_IDS = aux_layers(None, LAYERS)


class Rounded:
    """An engine whose states differ by `share` of their size."""

    def __init__(self, engine: HFTarget, share: float) -> None:
        self.engine, self.share = engine, share

    def flat_states(self, documents: list[torch.Tensor]) -> list[torch.Tensor]:
        torch.manual_seed(0)
        moved = []
        for states in self.engine.flat_states(documents):
            parts = states.unflatten(1, (-1, self.engine.body.config.hidden_size))
            noise = torch.randn(parts.shape)
            size = parts.norm(dim=-1, keepdim=True) / noise.norm(dim=-1, keepdim=True)
            moved.append((parts + self.share * size * noise).flatten(1))
        return moved


def checked(target: Path, engine: Any, folder: Path) -> dict[str, float]:
    """The self-check of a shard that `engine` has captured."""
    plain = HFTarget.load(target, LAYER_IDS, "float32")
    tokens, settings = folder / "tokens.safetensors", state_settings("fp32")
    token_shard(tokens, chats(6))
    shard = CaptureJob(settings, tokens, target).shard(folder / "states", ALONE, 1)
    capture(engine(plain), shard, 64)
    shard.finish()
    return check_shard(folder / "states", shard.tokens, plain, LAYER_IDS, settings.digest)


@pytest.mark.parametrize(("kind", "share"), [("llama", PLAIN), ("qwen3_moe", NOISY)])
def test_a_mixture_may_round_more(
    targets: dict[str, Path], tmp_path: Path, kind: str, share: float
) -> None:
    for folder in ("less", "more"):
        (tmp_path / folder).mkdir()
    checked(targets[kind], lambda engine: Rounded(engine, 0.9 * share), tmp_path / "less")
    with pytest.raises(UserError, match="differ from a plain forward pass of the target: cosine"):
        checked(targets[kind], lambda engine: Rounded(engine, 1.2 * share), tmp_path / "more")


def test_quantised_targets_and_mixtures_are_told_apart_by_their_configuration() -> None:
    assert most_different(SimpleNamespace(model_type="llama")) == PLAIN
    assert most_different(SimpleNamespace(quantization_config={"quant_method": "fp8"})) == NOISY
    assert most_different(SimpleNamespace(n_routed_experts=256)) == NOISY
    assert most_different(SimpleNamespace(num_local_experts=1)) == PLAIN
    assert least_cosine(SimpleNamespace()) == pytest.approx(0.9982)
    states, noise = torch.randn(2, 200, 4096)
    moved = (
        states + PLAIN * states.norm(dim=1, keepdim=True) / noise.norm(dim=1, keepdim=True) * noise
    )
    cosine = torch.cosine_similarity(states, moved).median()
    assert cosine.item() == pytest.approx(least_cosine(SimpleNamespace()), abs=1e-4)


class OneLayerEarly:
    """An engine that counts layers from their inputs."""

    def __init__(self, engine: HFTarget) -> None:
        self.engine = engine

    def flat_states(self, documents: list[torch.Tensor]) -> list[torch.Tensor]:
        aux, last = [], []
        for ids in documents:
            outputs, normed = self.engine.every_state(ids)
            aux.append(torch.cat([outputs[layer] for layer in LAYER_IDS], dim=-1))
            last.append(normed)
        return [torch.cat(aux), torch.cat(last)]


def test_the_layer_before_is_refused_though_it_is_nearly_the_same(tmp_path: Path) -> None:
    """Layers of a large target change a state by little."""
    target = save_model(tmp_path / "target", "llama")
    model = AutoModelForCausalLM.from_pretrained(target)
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.data *= 0.01
        layer.mlp.down_proj.weight.data *= 0.01
    model.save_pretrained(target)
    engine = HFTarget.load(target, LAYER_IDS, "float32")
    outputs, _ = engine.every_state(torch.arange(3, 40))
    for layer in LAYER_IDS:
        cosines = torch.cosine_similarity(outputs[layer], outputs[layer + 1])
        assert least_cosine(engine.body.config) < cosines.median() < 0.99999
    with pytest.raises(
        UserError, match=r"what should be the output of layer 1 is that of layer 0; the capture"
    ):
        checked(target, OneLayerEarly, tmp_path)
