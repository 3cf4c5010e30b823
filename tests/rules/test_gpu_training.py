"""What a run says before its jobs about training on a GPU."""

from __future__ import annotations

import sysconfig
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from eagle3.config.configuration import Config
from eagle3.errors import UserError
from eagle3.training import gpu
from eagle3.workflow import gpu_training
from eagle3.workflow.gpu_training import gpu_warnings, missing_for_compiler
from eagle3.workflow.prepare import environment


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
    for recompute in (False, True):
        with (
            pytest.raises(UserError, match=r"70\.0 of 80\.0 GiB.*packs of 8192 tokens") as said,
            gpu.memory_suffices(device, 8192, recompute),
        ):
            raise torch.OutOfMemoryError("CUDA out of memory")
        assert ("recompute" in str(said.value)) != recompute
    with pytest.raises(ValueError), gpu.memory_suffices(device, 1, False):
        raise ValueError("another fault")


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
