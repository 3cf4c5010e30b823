"""Can training use this GPU? Asked by the first capture too, which would otherwise be in vain; and
what to do where its memory does not suffice."""

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

WORKSPACE, WORKSPACES = "CUBLAS_WORKSPACE_CONFIG", (":4096:8", ":16:8")  # those that repeat
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


def use_deterministic_kernels(device: str) -> None:
    """Have CUDA take kernels that repeat bit for bit (`train.deterministic`), before its first
    product; nothing to do on a CPU. Raises UserError if the environment forbids it."""
    if device != "cuda":
        return
    workspace = os.environ.setdefault(WORKSPACE, WORKSPACES[0])
    if workspace not in WORKSPACES:
        raise UserError(
            f"train.deterministic is true but {WORKSPACE} is {workspace!r}, with which products of "
            f"matrices need not repeat: unset it, or use {' or '.join(WORKSPACES)}"
        )
    torch.use_deterministic_algorithms(True)  # flash attention and compiled code follow it
    # memory that nobody has written would be filled, to find faults; each buffer here is written
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


@contextmanager
def explain_out_of_memory(
    device: torch.device, memory: StepMemory, train: Train, max_length: int
) -> Iterator[None]:
    """Raises UserError in place of PyTorch's error if the GPU runs out of memory inside, with the
    largest pack that fits. `max_length`: tokens of the longest document, which has to fit into a
    pack."""
    try:
        yield
    except torch.OutOfMemoryError:
        used = torch.cuda.max_memory_allocated(device) / 2**30
        whole = torch.cuda.get_device_properties(device).total_memory
        raise UserError(
            f"the GPU is out of memory ({used:.1f} of {whole / 2**30:.1f} GiB in tensors) at packs "
            f"of {train.pack_tokens} tokens: {_remedy(memory, train, max_length, whole)}"
        ) from None


def _remedy(memory: StepMemory, train: Train, max_length: int, whole: int) -> str:
    if memory.constant > USABLE * whole:
        return (
            f"weights and optimiser state alone take about {memory.constant / 2**30:.1f} GiB; "
            "share them out (resources.train.data_parallel fsdp2), or make the draft smaller"
        )
    ways = []
    for recompute in (memory.recompute, True):
        fits = fitting_pack(replace(memory, recompute=recompute), train.pack_tokens, whole, memory)
        if fits >= train.pack_tokens:
            ways.append("resources.train.recompute, with packs as they are")
        elif fits >= max_length:
            batch = math.ceil(train.pack_tokens * train.packs_per_batch / fits)
            way = f"train.pack_tokens {fits} (with packs_per_batch {batch} for as large a batch)"
            ways.append(way + " and resources.train.recompute" * (recompute > memory.recompute))
        if memory.recompute:
            break
    if not ways:
        return (
            f"no pack fits that holds a document of tokens.max_length {max_length}; lower it, "
            "or have ranks share packs (resources.train.sp_ring_size)"
        )
    return f"by the plan's estimate it fits with {', or '.join(ways)}"


def fitting_pack(wanted: StepMemory, tokens: int, whole: int, tried: StepMemory) -> int:
    """The most tokens of a pack that fit into `whole` bytes with `wanted`, where `tokens` did not
    with `tried`: what the estimate says, scaled so that it agrees with that."""
    room, least = USABLE * whole, tried.bytes(tokens)
    scale = max((whole - tried.constant) / (least - tried.constant), 1.0)
    return wanted.largest_pack(wanted.constant + (room - wanted.constant) / scale)
