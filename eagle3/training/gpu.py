"""Can training use this GPU? Asked by the first capture too, which would otherwise be in vain."""

from __future__ import annotations

import torch

from eagle3.errors import UserError
from eagle3.kernels.compiled import compiles_for_cuda

AMPERE = (8, 0)  # compute capability; older GPUs have no products of bfloat16


def check_gpu(device: torch.device, precision: str) -> None:
    """Raise UserError if the GPU cannot train in `precision`; warn if nothing can be compiled for
    it. Nothing to check on a CPU."""
    if device.type != "cuda":
        return
    if precision == "bfloat16" and torch.cuda.get_device_capability(device) < AMPERE:
        raise UserError(
            f"train.precision is bfloat16, which {torch.cuda.get_device_name(device)} cannot "
            "multiply; use float32, or a GPU of the Ampere generation or a newer one"
        )
    compiles_for_cuda()
