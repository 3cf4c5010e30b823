"""Master weights sharded over the ranks by FSDP2.

Weights are gathered once per step, and gradients are reduced to shards once, however many packs a
rank has.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from eagle3.parallel.ranks import Ranks
from eagle3.training.data_parallel import fill_gradients


class Sharded:
    """A part of each weight on every rank (`data_parallel: fsdp2`). See `MasterWeights`."""

    def __init__(self, draft: nn.Module, ranks: Ranks) -> None:
        self.draft = draft
        mesh = init_device_mesh(ranks.device.type, (ranks.world,), mesh_dim_names=("shard",))
        self.root = _Root(draft)
        self.hooks = fully_shard(self.root, mesh=mesh, reshard_after_forward=False)
        self.hooks.set_gradient_divide_factor(1.0)
        # a division by one costs nothing, and gloo supports only sums
        self.hooks.set_force_sum_reduction_for_comms(True)

    def gather(self) -> None:
        self.hooks.unshard()

    def release(self) -> None:
        self.hooks.reshard()

    def sum_gradients(self) -> None:
        fill_gradients(self.draft)
        self.root().backward()  # its hooks reduce the gradients of all packs and free whole weights

    def whole(self, tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.detach()
        return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor

    def placed(self, full: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        if full.dim() == 0 or not isinstance(like, DTensor):  # the optimiser's step count
            return full.to(like.device)
        moved = full.to(like.device)
        return distribute_tensor(moved, like.device_mesh, like.placements, src_data_rank=None)


class _Root(nn.Module):
    """The module that FSDP hooks into. A step has any number of packs, none on some ranks, so its
    collectives belong to no pack's passes but to one extra pass without data."""

    def __init__(self, draft: nn.Module) -> None:
        super().__init__()
        self.draft = draft

    def forward(self) -> torch.Tensor:
        weight = next(self.draft.parameters())
        return 0 * weight.flatten()[0]
