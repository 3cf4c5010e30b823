"""Keys of the configuration that exclude each other. Imports no torch: used before any job."""

from __future__ import annotations

from eagle3.errors import UserError


def check_optimizer(optimizer: str, data_parallel: str) -> None:
    """Raises UserError if the optimiser needs what the ranks do not have."""
    if optimizer == "muon" and data_parallel == "fsdp2":
        raise UserError(
            "train.optimizer is muon, which needs whole matrices and gradients on every rank; "
            "resources.train.data_parallel fsdp2 cuts them up: use ddp, or adamw"
        )
