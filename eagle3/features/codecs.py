"""How states are stored: what a tensor of hidden states becomes on disk, and back."""

from __future__ import annotations

import torch

# codec name -> stored type; float32 states lose 16 bits under bf16, bfloat16 states none
STORED = {"bf16": torch.bfloat16, "fp32": torch.float32}


def encode(states: torch.Tensor, codec: str) -> torch.Tensor:
    """[..., H] in any float type -> the stored tensor."""
    return states.to(STORED[codec])


def decode(stored: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The stored tensor -> [..., H] in `dtype`."""
    return stored.to(dtype)


def bytes_per_value(codec: str) -> float:
    """Storage cost of one number, for the plan."""
    return float(STORED[codec].itemsize)
