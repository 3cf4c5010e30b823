"""The device that models run on, and the machine around it."""

from __future__ import annotations

import os
from typing import Any

import torch

from eagle3.errors import UserError
from eagle3.parallel.processor import processor, usable_cores


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


def machine(device: str) -> dict[str, Any]:
    """What a job runs on: the processor, the cores that it may use, the memory in bytes, and the
    GPUs that it sees if `device` is cuda."""
    gpus = range(torch.cuda.device_count()) if device == "cuda" else ()
    return {
        "processor": processor(),
        "cores": usable_cores(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpus": [torch.cuda.get_device_name(number) for number in gpus],
    }
