"""The GPUs that a process may use, each with a key that is the same in every view of the device."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

MIB = 2**20
VISIBLE = "CUDA_VISIBLE_DEVICES"
LISTED = re.compile(r"GPU (\d+): .*\(UUID: (GPU-[^)]+)\)")
SLICE = re.compile(r"\s+MIG .*\(UUID: (MIG-[^)]+)\)")


@dataclass(frozen=True)
class Gpu:
    """A GPU, or a MIG slice of one.

    `name` is its entry in CUDA_VISIBLE_DEVICES, `key` its UUID or, if unknown, its name.
    """

    name: str
    key: str


def visible_gpus(environment: Mapping[str, str]) -> list[Gpu]:
    """GPUs in CUDA_VISIBLE_DEVICES, else all that `nvidia-smi -L` lists; without torch.

    Numbers are those of nvidia-smi, hence of CUDA_DEVICE_ORDER=PCI_BUS_ID.
    """
    listed = _listed(environment.get("PATH"))
    visible = environment.get(VISIBLE)
    if visible is None:
        return listed
    gpus = []
    for name in map(str.strip, visible.split(",")):
        if not name or name == "-1":
            break  # CUDA ignores everything after an invalid entry
        # a UUID may be abbreviated
        keys = [gpu.key for gpu in listed if name == gpu.name or gpu.key.startswith(name)]
        gpus.append(Gpu(name, keys[0] if len(keys) == 1 else name))
    return gpus


def gpu_memory_and_name() -> tuple[int | None, str | None]:
    """Memory in bytes and name of the first GPU that nvidia-smi lists; None if unknown."""
    query = ["--query-gpu=memory.total,name", "--format=csv,noheader,nounits"]
    memory, _, name = _nvidia_smi(query).partition("\n")[0].partition(", ")
    return (int(memory) * MIB if memory.isdigit() else None), name or None


def _listed(path: str | None) -> list[Gpu]:
    """The GPUs that `nvidia-smi -L` lists; for a GPU with MIG slices, the slices instead."""
    gpus: list[Gpu] = []
    sliced = False
    for line in _nvidia_smi(["-L"], path).splitlines():
        if gpu_match := LISTED.match(line):
            gpus.append(Gpu(gpu_match[1], gpu_match[2]))
            sliced = False
        elif slice_match := SLICE.match(line):
            if not sliced:
                gpus.pop()
            gpus.append(Gpu(slice_match[1], slice_match[1]))
            sliced = True
    return gpus


def _nvidia_smi(arguments: list[str], path: str | None = None) -> str:
    """The output of nvidia-smi; empty if it is missing or fails."""
    program = shutil.which("nvidia-smi", path=path)
    if program is None:
        return ""
    try:
        result = subprocess.run(  # noqa: S603 - found in PATH
            [program, *arguments], capture_output=True, text=True, timeout=60, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return result.stdout
