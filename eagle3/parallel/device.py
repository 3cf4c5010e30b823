"""The device that models run on, and the machine around it."""

from __future__ import annotations

import ctypes
import os
from typing import Any

import torch

from eagle3.errors import UserError
from eagle3.parallel.processor import processor, usable_cores

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
LARGEST = 2**30


def check_device(name: str) -> torch.device:
    """`cpu` or `cuda` as a device. Raises UserError if there is no GPU that torch can use, with the
    reason."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError(f"resources.device is cuda, but {_why_no_gpu()}")
    return torch.device(name)


def _why_no_gpu() -> str:
    """The reason why torch finds no GPU, and a remedy."""
    built, driver = torch.version.cuda, driver_version()
    if built is None:
        return f"torch {torch.__version__} is built without CUDA: install a CUDA build, or use cpu"
    if driver is None:
        return (
            "there is no NVIDIA driver here (libcuda.so.1): run on a machine with a GPU (in a "
            "container, show it the GPU), or use cpu"
        )
    newest = f"{driver[0]}.{driver[1]}"
    if driver[0] < int(built.partition(".")[0]):  # newer minor versions run on older drivers
        return (
            f"the NVIDIA driver knows CUDA {newest} at most, and torch {torch.__version__} is "
            f"built for {built}: update the driver, or install a build of torch for CUDA {newest} "
            "or older"
        )
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    visible_note = "" if hidden is None else f" (CUDA_VISIBLE_DEVICES is {hidden!r})"
    return (
        f"torch finds no usable GPU here{visible_note}, though the driver knows CUDA {newest}: "
        "see nvidia-smi, or use cpu"
    )


def driver_version() -> tuple[int, int] | None:
    """The newest CUDA version that the NVIDIA driver supports, None if there is no driver."""
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    version = ctypes.c_int()
    if library.cuDriverGetVersion(ctypes.byref(version)) != 0:
        return None
    return version.value // 1000, version.value % 1000 // 10


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A host tensor on `device`; the copy to a GPU is asynchronous, from pinned memory."""
    if device.type == "cpu" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def device_name(device: torch.device) -> str:
    """The model of a GPU, or of this machine's processor."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else processor()


def machine(device: str) -> dict[str, Any]:
    """The machine of a job: processor, usable cores, memory in bytes, and visible GPUs if `device`
    is cuda."""
    gpus = range(torch.cuda.device_count()) if device == "cuda" else ()
    return {
        "processor": processor(),
        "cores": usable_cores(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpus": [torch.cuda.get_device_name(number) for number in gpus],
    }


def keep_freed_memory() -> bool:
    """Make the C library keep freed memory, if it supports that.

    Every step allocates the same sizes again. Pages returned to the system in between would have to
    be mapped and cleared again.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(TRIM_THRESHOLD, LARGEST) and mallopt(MMAP_THRESHOLD, LARGEST))
