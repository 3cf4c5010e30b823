"""The device that models run on."""

from __future__ import annotations

import torch

from eagle3.errors import UserError


def check_device(name: str) -> torch.device:
    """`cpu` or `cuda` as a device. Raises UserError if there is no GPU that torch can use."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "resources.device is cuda but torch finds no usable GPU here; use cpu, or install a "
            "CUDA build of torch"
        )
    return torch.device(name)
