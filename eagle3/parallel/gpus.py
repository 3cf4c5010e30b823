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

    `name` is its word in CUDA_VISIBLE_DEVICES, `key` its UUID or, where none is known, its name.
    """

    name: str
    key: str


def visible_gpus(environment: Mapping[str, str]) -> list[Gpu]:
    """What CUDA_VISIBLE_DEVICES names, else all that `nvidia-smi -L` lists; without torch.

    Numbers are those of nvidia-smi, hence of CUDA_DEVICE_ORDER=PCI_BUS_ID.
    """
    listed = _listed(environment.get("PATH"))
    named = environment.get(VISIBLE)
    if named is None:
        return listed
    gpus = []
    for name in map(str.strip, named.split(",")):
        if not name or name == "-1":
            break  # CUDA ignores what follows an entry that is none
        # a UUID may be cut short
        keys = [gpu.key for gpu in listed if name == gpu.name or gpu.key.startswith(name)]
        gpus.append(Gpu(name, keys[0] if len(keys) == 1 else name))
    return gpus


def gpu_memory_and_name() -> tuple[int | None, str | None]:
    """Memory in bytes and name of the first GPU that nvidia-smi lists; None if unknown."""
    query = ["--query-gpu=memory.total,name", "--format=csv,noheader,nounits"]
    memory, _, name = _nvidia_smi(query).partition("\n")[0].partition(", ")
    return (int(memory) * MIB if memory.isdigit() else None), name or None


def _listed(path: str | None) -> list[Gpu]:
    """What `nvidia-smi -L` lists: the slices of a GPU that is cut into some, whole ones else."""
    gpus: list[Gpu] = []
    cut = False
    for line in _nvidia_smi(["-L"], path).splitlines():
        if whole := LISTED.match(line):
            gpus.append(Gpu(whole[1], whole[2]))
            cut = False
        elif part := SLICE.match(line):
            if not cut:
                gpus.pop()
            gpus.append(Gpu(part[1], part[1]))
            cut = True
    return gpus


def _nvidia_smi(arguments: list[str], path: str | None = None) -> str:
    """What nvidia-smi prints; nothing where there is none, or a driver that does not answer."""
    program = shutil.which("nvidia-smi", path=path)
    if program is None:
        return ""
    try:
        done = subprocess.run(  # noqa: S603 - found in PATH
            [program, *arguments], capture_output=True, text=True, timeout=60, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout
