"""Ranks: the only module that knows the number of processes and the place of this one.

    rank = (data * ring size + ring) * ulysses size + ulysses

Ranks that differ in `data` work on different packs; the `ring` x `ulysses` ranks between them
share each pack, its rows dealt out among them: they are the sequence ranks of one pack.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from eagle3.errors import UserError
from eagle3.parallel.device import check_device
from eagle3.parallel.launcher import end_with_launcher

# NCCL counts from when a collective is queued, and then ends the process; ranks queue the next one
# while the first is still writing a checkpoint. torchrun handles dead ranks, immediately
TIMEOUTS = {"cpu": timedelta(minutes=10), "cuda": timedelta(hours=2)}


@dataclass(frozen=True)
class Group:
    """A group of ranks that exchange rows, and the index of this rank in it."""

    index: int = 0
    size: int = 1
    handle: dist.ProcessGroup | None = None  # None for a rank alone


@dataclass(frozen=True)
class Ranks:
    """This process among those that torchrun started."""

    rank: int
    world: int
    device: torch.device
    sequence: Group = Group()  # ranks that share a pack
    ulysses: Group = Group()  # those of them that also share the heads of attention
    ring: Group = Group()  # those that hold the same heads

    @property
    def first(self) -> bool:
        return self.rank == 0

    @property
    def data(self) -> Group:
        """Ranks by the packs they work on; nothing is exchanged among them alone."""
        return Group(self.rank // self.sequence.size, self.world // self.sequence.size)

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum over ranks, in place."""
        if self.world > 1:
            dist.all_reduce(tensor)
        return tensor

    def broadcast(self, tensor: torch.Tensor, source: int) -> torch.Tensor:
        """Copy the tensor of rank `source` to every rank, in place."""
        if self.world > 1:
            dist.broadcast(tensor, source)
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
def joined_ranks(device: str, ulysses: int = 1, ring: int = 1) -> Iterator[Ranks]:
    """Join the process group of torchrun: gloo on cpu, nccl on cuda; leave it on exit.

    Raises UserError if the sequence ranks do not divide the number of ranks.
    """
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    check_sequence(world, ulysses, ring)
    torch_device = check_device(device)
    if device == "cuda":
        torch_device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(torch_device)
    if world == 1:
        yield Ranks(rank, world, torch_device)
        return
    end_with_launcher()
    on_cuda = device == "cuda"
    dist.init_process_group(
        "nccl" if on_cuda else "gloo",
        timeout=TIMEOUTS[device],
        # without it NCCL guesses, and connects in the first step
        device_id=torch_device if on_cuda else None,
    )
    if ulysses * ring == 1:
        yield Ranks(rank, world, torch_device)
    else:
        groups = sequence_groups(rank, world, ulysses, ring, TIMEOUTS[device])
        yield Ranks(rank, world, torch_device, *groups)
    # not after a failure: the other ranks then wait in a collective, and leaving would wait for
    # them; the process just ends with its message
    dist.destroy_process_group()


def check_sequence(world: int, ulysses: int, ring: int) -> None:
    """Raise UserError if packs cannot be shared by ulysses x ring of the ranks."""
    if world % (ulysses * ring):
        raise UserError(
            f"resources.train: sp_ulysses_size {ulysses} x sp_ring_size {ring} ranks share a pack, "
            f"and {world} ranks (processes x nodes) are not a multiple of {ulysses * ring}"
        )


def sequence_groups(
    rank: int, world: int, ulysses: int, ring: int, timeout: timedelta
) -> list[Group]:
    """The sequence, Ulysses and ring groups of a rank. All ranks must call this."""
    ranks = torch.arange(world).view(-1, ring, ulysses)  # [packs, ring, ulysses]
    return [
        _group(rank, members.tolist(), timeout)
        for members in (ranks.flatten(1), ranks.flatten(0, 1), ranks.mT.flatten(0, 1))
    ]


def _group(rank: int, members: list[list[int]], timeout: timedelta) -> Group:
    """The group that contains `rank`. Each group has its own timeout, apart from that of all
    ranks."""
    group = next(candidate for candidate in members if rank in candidate)
    if len(group) == 1:
        return Group()
    handle, _ = dist.new_subgroups_by_enumeration(members, timeout=timeout)
    return Group(group.index(rank), len(group), handle)
