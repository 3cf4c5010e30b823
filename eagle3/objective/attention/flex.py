"""PyTorch's flex attention for the prefix: queries at explicit rows, no row filled in.

Compiled by Triton on CUDA, with a gradient through the log-sum-exp. Eager, it is a dense
computation for tests on a CPU, without a backward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch.nn.attention.flex_attention import AuxRequest, create_block_mask, flex_attention

from eagle3.kernels.compiled import VARIANTS
from eagle3.objective.attention.interface import Keys, Queries
from eagle3.objective.attention.own_keys import merge


@cache
def _kernels(device: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Attention and mask builder, compiled on CUDA."""
    if device != "cuda":
        return flex_attention, create_block_mask
    compile_with: Callable[..., Any] = torch.compile  # typed without `recompile_limit`
    # beyond the limit, both would run uncompiled and hold the scores of all queries and keys
    return (
        compile_with(flex_attention, dynamic=True, recompile_limit=VARIANTS),
        compile_with(create_block_mask, dynamic=True, recompile_limit=VARIANTS),
    )


def prefix_flex_attention(q: torch.Tensor, keys: Keys, queries: Queries) -> torch.Tensor:
    """Attention of one step; see `interface.Backend`."""
    attend, build_mask = _kernels(q.device.type)
    k0, v0 = keys.k0, keys.v0

    def visible(_b: Any, _h: Any, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return (key <= queries.rows[query]) & (key >= queries.starts[query])

    with torch.no_grad():  # else grad mode would add a compiled variant
        mask = build_mask(visible, None, None, len(q), len(k0), device=q.device)
    out, aux = attend(
        *(t.transpose(0, 1)[None] for t in (q, k0, v0)),
        block_mask=mask,
        enable_gqa=q.shape[1] != k0.shape[1],
        return_aux=AuxRequest(lse=True),
    )
    attended, lse = out[0].transpose(0, 1), aux.lse[0].transpose(0, 1)  # [A, heads, d], [A, heads]
    if keys.own_k:
        attended = merge(q, attended, lse, keys.own_k, keys.own_v, queries.own)
    return attended.flatten(1)
