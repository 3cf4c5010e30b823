"""Can training use this GPU? Asked by the first capture too, which would otherwise be in vain; and
what to do where its memory does not suffice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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


@contextmanager
def memory_suffices(device: torch.device, pack_tokens: int, recompute: bool) -> Iterator[None]:
    """Raises UserError in place of PyTorch's error if the GPU runs out of memory inside."""
    try:
        yield
    except torch.OutOfMemoryError:
        used = torch.cuda.max_memory_allocated(device) / 2**30
        whole = torch.cuda.get_device_properties(device).total_memory / 2**30
        advice = "" if recompute else ", or set resources.train.recompute"
        raise UserError(
            f"the GPU is out of memory ({used:.1f} of {whole:.1f} GiB in tensors) at packs of "
            f"{pack_tokens} tokens: halve train.pack_tokens and double packs_per_batch{advice}"
        ) from None
