"""Ranks: the one place that knows how many processes work together and who this one is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from eagle3.device import check_device


@dataclass(frozen=True)
class Ranks:
    """This process among those that torchrun started."""

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        return self.rank == 0

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum over ranks, in place."""
        if self.world > 1:
            dist.all_reduce(tensor)
        return tensor

    def gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """[...] -> [world, ...]: the tensor of every rank, on every rank; shapes must agree."""
        if self.world == 1:
            return tensor[None]
        out = tensor.new_empty(self.world * tensor.numel())
        dist.all_gather_into_tensor(out, tensor.flatten())  # gloo takes flat tensors only
        return out.view(self.world, *tensor.shape)

    def barrier(self) -> None:
        if self.world > 1:
            dist.barrier()


@contextmanager
def joined_ranks(device: str) -> Iterator[Ranks]:
    """Join the process group of torchrun: gloo on cpu, nccl on cuda; left on the way out."""
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    where = check_device(device)
    if device == "cuda":
        where = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(where)
    if world > 1:
        backend = "nccl" if device == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=timedelta(minutes=10))
    yield Ranks(rank, world, where)
    # not after a failure: the other ranks wait in a collective then, and leaving would wait for
    # them; the process just ends, with its sentence
    if dist.is_initialized():
        dist.destroy_process_group()
