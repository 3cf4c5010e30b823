"""Targets with quantised weights: what loads on a CPU is run, the rest is a sentence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from compressed_tensors.compressors import ModelCompressor
from compressed_tensors.quantization import (
    QuantizationArgs,
    QuantizationConfig,
    QuantizationScheme,
    QuantizationStatus,
    apply_quantization_config,
)
from safetensors.torch import load_file, save_file

from eagle3.engines.hf import HFTarget
from eagle3.errors import UserError
from eagle3.target_model import quantised
from eagle3.target_model.config import load_config
from eagle3.target_model.layers import aux_layers
from eagle3.target_model.logits import check_head
from eagle3.target_model.quantised import PACKAGES, check_packages, method_of
from eagle3.target_model.weights import TargetWeights
from tests.builders.models import LAYERS, VOCAB, build_model
from tests.builders.shards import (
    TRAIN,
    changed,
    naive_states,
    open_target,
    train_draft,
    training_set,
)

READ = aux_layers(None, LAYERS)
IDS = torch.randint(3, VOCAB, (1, 17), generator=torch.Generator().manual_seed(0))
MOST, GROUP, BLOCK = {"int": 7.0, "float": 448.0}, 16, 16


def packed(folder: Path, kind: str) -> Any:
    """A tiny model as the package compresses it; and the model with the weights that it means."""
    model, meant = build_model("llama"), build_model("llama")
    how = {"int": {"num_bits": 4, "strategy": "group", "group_size": GROUP}}
    how["float"] = {"num_bits": 8, "strategy": "channel"}
    weights = QuantizationArgs(type=kind, symmetric=True, **how[kind])
    scheme = QuantizationScheme(targets=["Linear"], weights=weights)
    config = QuantizationConfig(config_groups={"all": scheme}, ignore=["lm_head"])
    apply_quantization_config(model, config)
    for name, module in model.named_modules():
        if not hasattr(module, "weight_scale"):
            continue
        weight = module.weight.data
        groups = weight.unflatten(1, (-1, GROUP if kind == "int" else weight.shape[1]))
        scales = groups.abs().amax(-1, keepdim=True) / MOST[kind]
        module.weight_scale.data.copy_(scales[..., 0])
        module.quantization_status = QuantizationStatus.FROZEN
        steps = groups / scales
        rounded = steps.round() if kind == "int" else steps.to(torch.float8_e4m3fn).float()
        meant.get_submodule(name).weight.data.copy_((rounded * scales).flatten(1))
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    model.save_pretrained(folder)
    compressor.update_config(folder)
    return meant


def in_blocks(folder: Path) -> Any:
    """A tiny model in the form of DeepSeek-V3's files, fp8 with a scale for each block; and the
    model with the weights that it means."""
    model = build_model("llama")
    model.save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    for name, weight in list(tensors.items()):
        if ".layers." not in name or weight.dim() != 2:
            continue
        blocks = weight.unflatten(0, (-1, BLOCK)).unflatten(2, (-1, BLOCK)).transpose(1, 2)
        scales = blocks.abs().amax((2, 3), keepdim=True) / MOST["float"]
        stored = (blocks / scales).to(torch.float8_e4m3fn)
        back = (stored.float() * scales).transpose(1, 2).flatten(2).flatten(0, 1)
        model.get_parameter(name).data.copy_(back)
        tensors[name] = stored.transpose(1, 2).flatten(2).flatten(0, 1).contiguous()
        tensors[f"{name}_scale_inv"] = scales[:, :, 0, 0].contiguous()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    described(folder, {"quant_method": "fp8", "weight_block_size": [BLOCK, BLOCK]})
    return model


def described(folder: Path, quantization: dict[str, Any]) -> None:
    file = folder / "config.json"
    config = json.loads(file.read_text()) | {"quantization_config": quantization}
    file.write_text(json.dumps(config))


MADE = {
    "compressed-tensors, int4": lambda folder: packed(folder, "int"),
    "compressed-tensors, fp8": lambda folder: packed(folder, "float"),
    "fp8": in_blocks,
}


@pytest.mark.parametrize("kind", MADE)
def test_states_are_those_of_the_weights_that_the_files_mean(tmp_path: Path, kind: str) -> None:
    meant = MADE[kind](tmp_path / "target")
    assert method_of(tmp_path / "target") == kind.split(",", maxsplit=1)[0]
    bare = build_model("llama")
    aux, last = HFTarget.load(tmp_path / "target", READ, "float32").states(IDS)
    expected_aux, expected_last, _ = naive_states(meant, IDS[0], READ)
    # fp8 in blocks is unpacked to bfloat16 where no GPU runs it
    close = {"rtol": 0.05, "atol": 0.05} if kind == "fp8" else {"rtol": 1e-3, "atol": 1e-4}
    torch.testing.assert_close(aux[0].float(), expected_aux, **close)
    torch.testing.assert_close(last[0].float(), expected_last, **close)
    away = (naive_states(bare, IDS[0], READ)[1] - expected_last).abs().max()
    assert away > 2 * (last[0].float() - expected_last).abs().max()


def test_a_draft_is_trained_for_one(tmp_path: Path) -> None:
    target = tmp_path / "target"
    packed(target, "int")
    train = changed(TRAIN, epochs=1, epochs_per_stage=1)
    made = training_set(tmp_path, target, train, documents=8, draft_vocab=48)
    draft, _ = train_draft(made, tmp_path)
    assert all(weight.isfinite().all() for weight in draft.parameters())
    _, head = open_target(target)
    assert head.weight.is_floating_point() and load_config(target).vocab_size == VOCAB


@pytest.mark.parametrize("method", PACKAGES)
def test_a_package_that_is_missing_is_named(
    targets: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    shutil.copytree(targets["llama"], tmp_path, dirs_exist_ok=True)
    described(tmp_path, {"quant_method": method, "bits": 4})
    monkeypatch.setattr(quantised, "find_spec", lambda _name: None)
    with pytest.raises(UserError, match=rf"are quantised \({method}\), .*`pip install [a-z-]+"):
        check_packages(tmp_path)
    with pytest.raises(UserError, match="`pip install"):
        HFTarget.load(tmp_path, READ)


def test_a_method_that_nobody_knows_is_a_sentence(targets: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(targets["llama"], tmp_path, dirs_exist_ok=True)
    described(tmp_path, {"quant_method": "two_bits"})
    with pytest.raises(
        UserError, match=r"quantised \(two_bits\), which transformers would pass over"
    ):
        HFTarget.load(tmp_path, READ)


def test_a_quantised_head_is_refused(tmp_path: Path) -> None:
    weights = object.__new__(TargetWeights)
    weights.directory = tmp_path
    weights.file_of = dict.fromkeys(("lm_head.weight", "lm_head.weight_scale_inv"), "x")
    with pytest.raises(UserError, match=r"target has lm_head\.weight_scale_inv too"):
        check_head(weights, "lm_head.weight")
