"""Which GPUs a process may use, as a false nvidia-smi tells it."""

from __future__ import annotations

from pathlib import Path

from eagle3.parallel.gpus import Gpu, visible_gpus


def nvidia_smi(folder: Path, text: str) -> dict[str, str]:
    """An environment whose only program is an nvidia-smi that says `text`."""
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n[ $1 = -L ] && echo '{text}'\n")
    program.chmod(0o755)
    return {"PATH": str(folder)}


def test_visible_gpus_have_the_keys_that_nvidia_smi_knows(tmp_path):
    whole = "GPU 0: NVIDIA H200 (UUID: GPU-aa-1)\nGPU 1: NVIDIA H200 (UUID: GPU-ab-2)"
    environment = nvidia_smi(tmp_path, whole)

    def seen(named: str) -> list[tuple[str, str]]:
        result = visible_gpus(environment | {"CUDA_VISIBLE_DEVICES": named})
        return [(gpu.name, gpu.key) for gpu in result]

    assert visible_gpus(environment) == [Gpu("0", "GPU-aa-1"), Gpu("1", "GPU-ab-2")]
    assert seen("1, 0") == [("1", "GPU-ab-2"), ("0", "GPU-aa-1")]
    assert seen("GPU-ab,7") == [("GPU-ab", "GPU-ab-2"), ("7", "7")]
    assert seen("GPU-a") == [("GPU-a", "GPU-a")]  # either
    assert seen("0,-1,1") == [("0", "GPU-aa-1")]
    assert seen("") == []


def test_a_gpu_in_slices_is_its_slices(tmp_path):
    text = (
        "GPU 0: NVIDIA H200 (UUID: GPU-aa)\n"
        "  MIG 1g.18gb     Device  0: (UUID: MIG-x)\n"
        "  MIG 1g.18gb     Device  1: (UUID: MIG-y)\n"
        "GPU 1: NVIDIA H200 (UUID: GPU-bb)"
    )
    result = visible_gpus(nvidia_smi(tmp_path, text))
    assert [gpu.name for gpu in result] == ["MIG-x", "MIG-y", "1"]


def test_without_nvidia_smi_there_are_the_named_devices_or_none(tmp_path):
    assert visible_gpus({"PATH": str(tmp_path)}) == []
    named = {"PATH": str(tmp_path), "CUDA_VISIBLE_DEVICES": "3"}
    assert visible_gpus(named) == [Gpu("3", "3")]
    broken = nvidia_smi(tmp_path, "")
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nexit 9\n")
    assert visible_gpus(broken) == []
