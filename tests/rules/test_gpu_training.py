"""What a run says before its jobs about training on a GPU."""

from __future__ import annotations

import os
import re
import sysconfig
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks.gpu.step import LLAMA_8B
from benchmarks.synthetic import draft_config
from eagle3.config.configuration import Config
from eagle3.config.train import Train
from eagle3.errors import UserError
from eagle3.objective import head_loss, memory
from eagle3.objective.memory import StepMemory
from eagle3.training import gpu
from eagle3.workflow import gpu_training
from eagle3.workflow.gpu_training import gpu_warnings, missing_for_compiler
from eagle3.workflow.prepare import environment

# the draft of Llama-3.1-8B: 425 M trained
MEMORY = StepMemory(draft_config(LLAMA_8B), 425_000_000, [0.64] * 7)


def config(device="cuda", **train):
    return Config.of(
        {
            "run": "r",
            "tokens": {"max_length": 512},
            "resources": {"device": device},
            "train": {"precision": "bfloat16"} | train,
        }
    )


def compiler(folder: Path, name: str) -> str:
    """A folder with a program of this name, as a PATH."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("#!/bin/sh\n")
    (folder / name).chmod(0o755)
    return str(folder)


def test_a_compiler_and_headers_are_looked_for_as_triton_does(tmp_path, monkeypatch):
    empty = {"PATH": str(tmp_path / "none")}
    headers = tmp_path / "include"
    headers.mkdir()
    monkeypatch.setattr(sysconfig, "get_paths", lambda _scheme: {"include": str(headers)})
    assert "compiler" in missing_for_compiler(empty)
    with_gcc = {"PATH": compiler(tmp_path / "gcc", "gcc")}
    assert "headers" in missing_for_compiler(with_gcc)
    (headers / "Python.h").touch()
    assert missing_for_compiler(with_gcc) is None
    assert missing_for_compiler({"PATH": compiler(tmp_path / "clang", "clang")}) is None
    named = {"PATH": compiler(tmp_path / "cc", "mycc"), "CC": "mycc -O2"}
    assert missing_for_compiler(named) is None
    assert "compiler" in missing_for_compiler(with_gcc | {"CC": "gone"})


def test_what_wastes_a_gpu_is_warned_of(monkeypatch):
    monkeypatch.setattr(gpu_training, "missing_for_compiler", lambda _environment: "compiler")
    said = list(gpu_warnings(config(precision="float32", pack_tokens=768), {}, False))
    assert len(said) == 3
    assert "float32" in said[0] and "768" in said[1] and "no compiler" in said[2]
    good = {"pack_tokens": 8192}
    assert len(list(gpu_warnings(config(**good), {}, False))) == 1
    assert list(gpu_warnings(config(**good), {}, True)) == []  # the image has its own
    assert list(gpu_warnings(config("cpu", precision="float32", pack_tokens=768), {}, False)) == []


def test_a_gpu_without_bfloat16_is_refused_before_captures(monkeypatch):
    asked = []
    monkeypatch.setattr(gpu, "compiles_for_cuda", lambda: asked.append(1))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: "Tesla T4")
    gpu.check_gpu(torch.device("cpu"), "bfloat16")
    assert not asked
    gpu.check_gpu(torch.device("cuda"), "float32")
    assert asked
    with pytest.raises(UserError, match="Tesla T4"):
        gpu.check_gpu(torch.device("cuda"), "bfloat16")


def test_out_of_memory_is_a_sentence_with_a_way_out(monkeypatch):
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _device: 70 * 2**30)
    whole = SimpleNamespace(total_memory=80 * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _device: whole)
    device = torch.device("cuda")

    def said(pack: tuple[int, int, int], whole_gib: int = 80, **changes: Any) -> str:
        whole.total_memory = whole_gib * 2**30
        tokens, longest, batch = pack
        train = Train(pack_tokens=tokens, packs_per_batch=batch)
        with (
            pytest.raises(UserError) as refusal,
            gpu.explain_out_of_memory(device, replace(MEMORY, **changes), train, longest),
        ):
            raise torch.OutOfMemoryError("CUDA out of memory")
        assert "\n" not in str(refusal.value)
        return str(refusal.value)

    pack = (262144, 2048, 2)
    text = said(pack)
    assert "(70.0 of 80.0 GiB in tensors) at packs of 262144 tokens: by the plan's" in text
    ways = re.findall(r"train\.pack_tokens (\d+) \(with packs_per_batch (\d+) for", text)
    (fits, batches), (wider, _) = ((int(tokens), int(packs)) for tokens, packs in ways)
    assert 2048 < fits < wider and fits * batches >= 262144 * 2 > fits * (batches - 1)
    assert MEMORY.bytes(fits) <= 80 * 2**30 and text.endswith("and resources.train.recompute")
    assert "recompute" not in said(pack, recompute=True)
    # where the estimate would have let it pass, it is scaled to what has happened
    small = (8192, 512, 8)
    assert MEMORY.bytes(8192) < 40 * 2**30
    scaled = int(re.findall(r"train.pack_tokens (\d+)", said(small))[0])
    assert 512 <= scaled < 8192
    long = (8192, 8192, 8)
    assert said(long).endswith("it fits with resources.train.recompute, with packs as they are")
    assert "no pack fits that holds a document of tokens.max_length 8192" in said(
        long, recompute=True
    )
    assert "alone take about" in said(small, whole_gib=5)
    with (
        pytest.raises(ValueError, match="another fault"),
        gpu.explain_out_of_memory(device, MEMORY, Train(), 2048),
    ):
        raise ValueError("another fault")


def test_the_estimate_knows_how_much_is_scored_at_once():
    assert head_loss.CHUNK_BYTES["cuda"] == memory.CHUNK_BYTES
    with_three = MEMORY.kept()
    five = replace(MEMORY, draft=replace(MEMORY.draft, aux_layers=(1, 2, 3, 4, 5)))
    assert five.kept() - with_three == 2 * 2 * 2 * MEMORY.draft.hidden_size
    for room in (2e9, 10e9, 80e9):
        fits = MEMORY.largest_pack(room)
        assert fits % memory.STEP == 0 and MEMORY.bytes(fits + memory.STEP) > room
        assert fits == 0 or MEMORY.bytes(fits) <= room


def test_kernels_that_repeat_are_asked_for_on_cuda_alone(monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "use_deterministic_algorithms", asked.append)
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    gpu.use_deterministic_kernels("cpu")
    assert asked == [] and "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    gpu.use_deterministic_kernels("cuda")
    assert asked == [True] and os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert torch.utils.deterministic.fill_uninitialized_memory is False
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    gpu.use_deterministic_kernels("cuda")
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":0:0")
    with pytest.raises(UserError, match=r"CUBLAS_WORKSPACE_CONFIG is ':0:0'.*unset it"):
        gpu.use_deterministic_kernels("cuda")


def test_jobs_on_a_gpu_share_what_is_compiled(monkeypatch):
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    name = "TORCHINDUCTOR_CACHE_DIR"
    runs = {device: SimpleNamespace(config=config(device)) for device in ("cpu", "cuda")}
    assert name not in environment(runs["cpu"], Path("root"), True, False)
    result = environment(runs["cuda"], Path("root"), True, False)[name]
    assert result == str(Path(".snakemake/eagle3/compiled").absolute())
    monkeypatch.setenv(name, "elsewhere")
    assert environment(runs["cuda"], Path("root"), True, False)[name] == "elsewhere"


def test_images_with_cuda_have_a_compiler():
    """Triton's own needs, in the definition, the script that builds it and the environment."""
    envs = Path(__file__).resolve().parents[2] / "envs"
    assert "has no C compiler" in (envs / "eagle3.def").read_text()
    assert "python:3.11-bookworm" in (envs / "build_image.sh").read_text()
    assert "- c-compiler" in (envs / "eagle3.yaml").read_text()
