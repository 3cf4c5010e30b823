"""The device that models run on, and the machine around it."""

from __future__ import annotations

import ctypes
import os
import platform
from functools import cache
from pathlib import Path
from typing import Any

import torch

from eagle3.errors import UserError

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
LARGEST = 2**30


def check_device(name: str) -> torch.device:
    """`cpu` or `cuda` as a device. Raises UserError if there is no GPU that torch can use."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "resources.device is cuda but torch finds no usable GPU here; use cpu, or install a "
            "CUDA build of torch"
        )
    return torch.device(name)


def sent(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor of the host on `device`: a GPU is not waited for, since the copy is pinned."""
    if device.type == "cpu" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def device_name(device: torch.device) -> str:
    """The model of a GPU, or of this machine's processor."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else processor()


@cache
def processor() -> str:
    """The model of this machine's processor, else its architecture."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def machine(device: str) -> dict[str, Any]:
    """What a job runs on: the processor, the cores that it may use, the memory in bytes, and the
    GPUs that it sees if `device` is cuda."""
    gpus = range(torch.cuda.device_count()) if device == "cuda" else ()
    return {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")  # not on macOS
        else os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpus": [torch.cuda.get_device_name(number) for number in gpus],
    }


def keep_freed_memory() -> bool:
    """Have the C library keep freed memory, where it supports that.

    Every step asks for the same sizes again. Given back to the system in between, each page would
    be cleared and mapped again.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(TRIM_THRESHOLD, LARGEST) and mallopt(MMAP_THRESHOLD, LARGEST))
