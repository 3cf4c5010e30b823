"""A LoRA adapter on a target, made by peft: merged where the target is run, refused where it is not
all of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from eagle3.capture.job import CaptureJob, capture_shard
from eagle3.checks import check_choices
from eagle3.config.configuration import Config
from eagle3.engines.hf import HFTarget
from eagle3.engines.hf_answers import HFAnswers
from eagle3.errors import UserError
from eagle3.report.serve_commands import serve_commands
from eagle3.store.reader import FeatureShard
from eagle3.target_model.adapter import check_adapter, read_adapter
from eagle3.target_model.layers import aux_layers
from tests.builders.models import LAYERS, VOCAB, save_wrapper
from tests.builders.shards import (
    ALONE,
    STATES,
    chats,
    naive_states,
    open_target,
    placement,
    read_all,
    token_shard,
)

READ = aux_layers(None, LAYERS)
IDS = torch.randint(3, VOCAB, (1, 17), generator=torch.Generator().manual_seed(0))
ATTENTION = ["q_proj", "v_proj"]
CHOICES: dict[str, dict[str, Any]] = {
    "plain": {"target_modules": ATTENTION, "lora_alpha": 16},
    "all linear": {"target_modules": "all-linear", "lora_alpha": 5},
    "rank-stabilised": {"target_modules": ATTENTION, "use_rslora": True},
    "patterns": {
        "target_modules": ATTENTION,
        "rank_pattern": {"layers.2.self_attn.q_proj": 6},
        "alpha_pattern": {"v_proj": 32, r"layers\.[34]\.self_attn\.q_proj": 3},
    },
    "some layers": {"target_modules": ["down_proj"], "layers_to_transform": [0, 5]},
}


def trained(target: Path, folder: Path, seed: int = 0, **choices: Any) -> tuple[Path, Any]:
    """An adapter with random matrices on both sides, saved; and peft's model with it on."""
    torch.manual_seed(seed)
    base = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32)
    model = get_peft_model(base, LoraConfig(r=4, task_type="CAUSAL_LM", **choices)).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.normal_(std=0.3)
    model.save_pretrained(folder)
    return folder, model


def reconfigured(folder: Path, **changes: Any) -> Path:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return folder


@pytest.fixture(scope="module")
def plain(targets: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    return trained(targets["llama"], tmp_path_factory.mktemp("lora"), **CHOICES["plain"])


@pytest.mark.parametrize("choice", CHOICES)
def test_states_are_those_of_peft(targets: dict[str, Path], tmp_path: Path, choice: str) -> None:
    folder, model = trained(targets["llama"], tmp_path, **CHOICES[choice])
    check_adapter(read_adapter(folder), targets["llama"])
    bare = HFTarget.load(targets["llama"], READ, "float32").states(IDS)
    aux, last = HFTarget.load(targets["llama"], READ, "float32", adapter=folder).states(IDS)
    expected_aux, expected_last, _ = naive_states(model, IDS[0], READ)
    torch.testing.assert_close(aux[0], expected_aux, rtol=1e-3, atol=2e-4)
    torch.testing.assert_close(last[0], expected_last, rtol=1e-3, atol=2e-4)
    assert not torch.allclose(bare[1], last, atol=1e-2)


def test_a_capture_and_its_self_check_run_the_target_with_it(
    targets: dict[str, Path], plain: tuple[Path, Any], tmp_path: Path
) -> None:
    folder, model = plain
    tokens = tmp_path / "tokens.safetensors"
    texts = chats(3)
    token_shard(tokens, texts)
    job = CaptureJob(STATES, tokens, targets["llama"], folder)
    out = tmp_path / "states.safetensors"
    cosines = capture_shard(job, out, placement(self_check=True), ALONE)
    assert min(cosines.values()) > 0.9999
    stored = read_all(FeatureShard(out, job.tokens, STATES.digest))["aux"]
    ids, _ = texts[0]
    aux, _, _ = naive_states(model, ids, READ)
    rows = len(FeatureShard(out, job.tokens, STATES.digest).read(0)["aux"])
    torch.testing.assert_close(stored[:rows].float(), aux[:rows], rtol=1e-3, atol=2e-4)


def test_a_target_inside_a_multimodal_model_takes_one(tmp_path: Path) -> None:
    target = save_wrapper(tmp_path / "llava", "llava")
    from transformers import AutoModelForImageTextToText

    base = AutoModelForImageTextToText.from_pretrained(target, dtype=torch.float32)
    where = r".*language_model.*\.(q_proj|v_proj)"
    model = get_peft_model(base, LoraConfig(r=4, target_modules=where)).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.normal_(std=0.3)
    model.save_pretrained(tmp_path / "lora")
    check_adapter(read_adapter(tmp_path / "lora"), target)
    aux, _ = HFTarget.load(target, READ, "float32", adapter=tmp_path / "lora").states(IDS)
    expected, _, _ = naive_states(model, IDS[0], READ)
    torch.testing.assert_close(aux[0], expected, rtol=1e-3, atol=2e-4)


def test_answers_are_those_of_the_target_with_it(
    targets: dict[str, Path], plain: tuple[Path, Any], tmp_path: Path, monkeypatch
) -> None:
    folder, model = plain
    monkeypatch.setattr("eagle3.engines.hf_answers.load_tokenizer", lambda *_: None)
    monkeypatch.setattr("eagle3.engines.hf_answers.stop_ids", lambda *_: [])
    monkeypatch.setattr("eagle3.engines.hf_answers.Renderer.of", lambda *_, **__: None)
    answers = HFAnswers(targets["llama"], {}, None, 1, "float32", adapter=folder)
    with torch.inference_mode():
        torch.testing.assert_close(
            answers.model(input_ids=IDS).logits, model(input_ids=IDS).logits, rtol=1e-3, atol=1e-3
        )


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"peft_type": "PREFIX_TUNING"}, "peft_type 'PREFIX_TUNING'; must be LORA"),
        ({"use_dora": True}, "use_dora = True, which is not merged here"),
        ({"bias": "all"}, "bias = 'all'"),
        ({"modules_to_save": ["lm_head"]}, r"modules_to_save = \['lm_head'\].*merge_and_unload"),
        ({"target_parameters": ["mlp.experts.gate_up_proj"]}, "target_parameters"),
    ],
)
def test_what_is_more_than_products_is_refused(
    plain: tuple[Path, Any], tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    shutil.copytree(plain[0], tmp_path, dirs_exist_ok=True)
    with pytest.raises(UserError, match=f"target.adapter: .*{says}"):
        read_adapter(reconfigured(tmp_path, **changes))


def test_an_adapter_of_another_model_or_of_its_head_is_refused(
    targets: dict[str, Path], plain: tuple[Path, Any], tmp_path: Path
) -> None:
    head, _ = trained(targets["llama"], tmp_path / "head", target_modules=["lm_head"])
    with pytest.raises(UserError, match=r"lm_head.*must hold lora_A and lora_B of matrices"):
        check_adapter(read_adapter(head), targets["llama"])
    other = tmp_path / "other"
    shutil.copytree(targets["llama"], other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"quantization_config": {"bits": 4}}))
    with pytest.raises(UserError, match="are quantised, so nothing can be added"):
        check_adapter(read_adapter(plain[0]), other)
    with pytest.raises(UserError, match=r"changes model\.layers\.0\.self_attn\.q_proj, which the"):
        check_adapter(read_adapter(plain[0]), _renamed(targets["llama"], tmp_path / "renamed"))
    with pytest.raises(UserError, match=r"matrix of \[32, 32\], the target's is \[48, 32\]"):
        HFTarget.load(targets["qwen3"], READ, "float32", adapter=plain[0])


def _renamed(target: Path, folder: Path) -> Path:
    from safetensors.torch import load_file, save_file

    shutil.copytree(target, folder)
    tensors = load_file(folder / "model.safetensors")
    changed = {name.replace("q_proj", "query"): tensor for name, tensor in tensors.items()}
    save_file(changed, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_damaged_files_are_a_sentence(plain: tuple[Path, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"target\.adapter: .*No such file"):
        read_adapter(tmp_path)
    shutil.copytree(plain[0], tmp_path, dirs_exist_ok=True)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"no header")
    with pytest.raises(UserError, match="is not a whole safetensors file"):
        read_adapter(tmp_path)
    (tmp_path / "adapter_model.safetensors").unlink()
    with pytest.raises(UserError, match=r"has no adapter_model\.safetensors"):
        read_adapter(tmp_path)


@pytest.mark.parametrize(
    "other",
    [
        {"hidden_states": {"backend": "sglang"}},
        {"resources": {"capture": {"tensor_parallel": 2}}},
        {"target": {"adapter": "lora"}},
    ],
)
def test_where_it_would_be_left_out_it_is_refused(other: dict[str, Any]) -> None:
    target = {"adapter": "lora", "model": "hub:someone/a-model"}
    config = Config.of({"run": "x", "target": target} | other).to_dict()
    with pytest.raises(UserError, match=r"target\.adapter is set, .*target\.model"):
        check_choices(config)


def test_the_serve_command_says_which_model_it_means() -> None:
    target = {"adapter": "lora", "model": "hub:someone/a-model"}
    config = Config.of({"run": "x", "target": target}).to_dict()
    (command,) = serve_commands(config, 3).values()
    first, second = command.splitlines()[:2]
    assert first == "# the target with the adapter lora merged into it"
    assert "someone/a-model" in second


def test_the_head_is_that_of_the_target(targets: dict[str, Path], plain: tuple[Path, Any]) -> None:
    """Adapters of the head are refused, so the one that is read apart from the body is right."""
    _, head = open_target(targets["llama"])
    _, model = plain
    engine = HFTarget.load(targets["llama"], READ, "float32", adapter=plain[0])
    with torch.inference_mode():
        logits = model(input_ids=IDS).logits
    torch.testing.assert_close(head.logits(engine.states(IDS)[1]), logits, rtol=1e-3, atol=1e-3)
