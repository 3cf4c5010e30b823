"""Which attention back end a device gets."""

from __future__ import annotations

import torch

from eagle3.objective.attention import Attention, reference_attention
from eagle3.objective.chunked_attention import chunked_attention
from eagle3.objective.flash_attention import flash_attention
from eagle3.objective.flex_attention import prefix_flex_attention

BACKENDS: dict[str, Attention] = {
    "chunked": chunked_attention,
    "flash": flash_attention,
    "flex": prefix_flex_attention,
    "reference": reference_attention,
}


def choose_attention(
    name: str, device: torch.device, dtype: torch.dtype, shared: bool = False
) -> Attention:
    """The back end `name`; `auto` and `usp`: the fastest one of the device. `usp` also says how
    ranks that share a pack exchange keys (see `sequence`).

    CUDA's flash kernel takes half precision only, and computes whole documents, of which a rank
    that shares a pack has few rows; on a CPU products of chunks are faster than its flash kernel,
    whose backward pass is slow (docs/performance.md).
    """
    if name in ("auto", "usp"):
        on_cuda = device.type == "cuda"
        whole = dtype in (torch.bfloat16, torch.float16) and not shared
        name = "chunked" if not on_cuda else "flash" if whole else "flex"
    return BACKENDS[name]
