"""Checks that training can use this GPU, made by the first capture too, which would otherwise be
wasted; and remedies if its memory does not suffice."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch

from eagle3.config.train import Train
from eagle3.errors import UserError
from eagle3.kernels.compiled import compiles_for_cuda
from eagle3.objective.memory import USABLE, StepMemory

WORKSPACE, WORKSPACES = "CUBLAS_WORKSPACE_CONFIG", (":4096:8", ":16:8")  # deterministic ones
AMPERE = (8, 0)  # compute capability; older GPUs have no products of bfloat16


def check_gpu(device: torch.device, precision: str) -> None:
    """Raise UserError if the GPU cannot train in `precision`; warn if nothing can be compiled for
    it. Does nothing on a CPU."""
    if device.type != "cuda":
        return
    if precision == "bfloat16" and torch.cuda.get_device_capability(device) < AMPERE:
        raise UserError(
            f"train.precision is bfloat16, which {torch.cuda.get_device_name(device)} cannot "
            "multiply; use float32, or a GPU of the Ampere generation or a newer one"
        )
    compiles_for_cuda()


def use_deterministic_kernels(device: str) -> None:
    """Make CUDA use kernels that repeat bit for bit (`train.deterministic`); call it before the
    first product. Does nothing on a CPU. Raises UserError if the environment forbids it."""
    if device != "cuda":
        return
    workspace = os.environ.setdefault(WORKSPACE, WORKSPACES[0])
    if workspace not in WORKSPACES:
        raise UserError(
            f"train.deterministic is true but {WORKSPACE} is {workspace!r}, with which products of "
            f"matrices need not repeat: unset it, or use {' or '.join(WORKSPACES)}"
        )
    torch.use_deterministic_algorithms(True)  # flash attention and compiled code follow it
    # by default, uninitialised memory is filled to find bugs; every buffer here is written
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


@contextmanager
def explain_out_of_memory(
    device: torch.device, memory: StepMemory, train: Train, max_length: int
) -> Iterator[None]:
    """Turn PyTorch's out-of-memory error into a UserError with the largest pack that fits.
    `max_length`: tokens of the longest document, which must fit into a pack."""
    try:
        yield
    except torch.OutOfMemoryError:
        used = torch.cuda.max_memory_allocated(device) / 2**30
        total = torch.cuda.get_device_properties(device).total_memory
        raise UserError(
            f"the GPU is out of memory ({used:.1f} of {total / 2**30:.1f} GiB in tensors) at packs "
            f"of {train.pack_tokens} tokens: {_remedy(memory, train, max_length, total)}"
        ) from None


def _remedy(memory: StepMemory, train: Train, max_length: int, total: int) -> str:
    if memory.constant > USABLE * total:
        return (
            f"weights and optimiser state alone take about {memory.constant / 2**30:.1f} GiB; "
            "share them out (resources.train.data_parallel fsdp2), or make the draft smaller"
        )
    remedies = []
    for recompute in (memory.recompute, True):
        size = fitting_pack(replace(memory, recompute=recompute), train.pack_tokens, total, memory)
        if size >= train.pack_tokens:
            remedies.append("resources.train.recompute, with packs as they are")
        elif size >= max_length:
            batch = math.ceil(train.pack_tokens * train.packs_per_batch / size)
            remedy = f"train.pack_tokens {size} (with packs_per_batch {batch} for as large a batch)"
            more = " and resources.train.recompute" * (recompute > memory.recompute)
            remedies.append(remedy + more)
        if memory.recompute:
            break
    if not remedies:
        return (
            f"no pack fits that holds a document of tokens.max_length {max_length}; lower it, "
            "or have ranks share packs (resources.train.sp_ring_size)"
        )
    return f"by the plan's estimate it fits with {', or '.join(remedies)}"


def fitting_pack(memory: StepMemory, tokens: int, total: int, failed: StepMemory) -> int:
    """The largest pack, in tokens, that fits into `total` bytes with `memory`, given that `tokens`
    did not fit with `failed`: the estimate, scaled to agree with that failure."""
    limit, estimated = USABLE * total, failed.bytes(tokens)
    scale = max((total - failed.constant) / (estimated - failed.constant), 1.0)
    return memory.largest_pack(memory.constant + (limit - memory.constant) / scale)
