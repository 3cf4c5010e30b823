"""Attention of the training-time test: a causal prefix plus a row's own later keys.

Query row t at step k sees the keys of step 0 at rows <= t of its document, and its own keys of
steps 1..k (not those of other rows). For document rows 0..3 at step 2:

                 step-0 keys          own keys
    row          0  1  2  3           k=1  k=2
     0           x                     x    x
     1           x  x                  x    x
     2           x  x  x               x    x
     3           x  x  x  x            x    x

This is the plain form: one dense score block per document, never one over the whole pack.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Segments:
    """How many keys and queries each document has (Python ints: they shape the computation)."""

    keys: list[int]  # [D], adding up to T
    queries: list[int]  # [D], adding up to A


def prefix_attention(
    q: torch.Tensor,  # [A, heads, d], rotated
    k0: torch.Tensor,  # [T, kv_heads, d], rotated keys of step 0
    v0: torch.Tensor,  # [T, kv_heads, d]
    own_k: Sequence[torch.Tensor],  # k tensors [A, kv_heads, d], steps 1..k
    own_v: Sequence[torch.Tensor],
    rows: torch.Tensor,  # int64 [A], row of each query among the T keys
    segments: Segments,
) -> torch.Tensor:
    """Attended values [A, heads, d]; scores and softmax in at least float32."""
    kv_heads, d = k0.shape[1:]
    grouped = q.unflatten(1, (kv_heads, -1)) * d**-0.5  # [A, kv, g, d]
    exact = torch.float64 if q.dtype == torch.float64 else torch.float32
    key_row = torch.arange(len(k0), device=q.device)
    # split, not slices in the loop: the gradient of a slice is as long as the whole pack
    by_query = [t.split(segments.queries) for t in (grouped, rows, *own_k, *own_v)]
    by_key = [t.split(segments.keys) for t in (k0, v0, key_row)]
    out = []
    for document, count in enumerate(segments.queries):
        if count == 0:
            continue
        mine, row, *own = (parts[document] for parts in by_query)
        keys, values, index = (parts[document] for parts in by_key)
        scores = torch.einsum("akgd,tkd->akgt", mine, keys).to(exact)
        later = index > row[:, None]  # [A_d, t]
        scores = scores.masked_fill(later[:, None, None], float("-inf"))
        steps = len(own_k)
        own_scores = [(mine * k[:, :, None]).sum(-1, keepdim=True).to(exact) for k in own[:steps]]
        weights = torch.cat((scores, *own_scores), dim=-1).softmax(-1).to(v0.dtype)
        shared, *shares = weights.split([len(index), *[1] * steps], dim=-1)  # [A_d, kv, g, t | 1]
        attended = torch.einsum("akgt,tkd->akgd", shared, values)
        for share, v in zip(shares, own[steps:], strict=True):
            attended = attended + share * v[:, :, None]
        out.append(attended.flatten(1, 2))
    return torch.cat(out) if out else q
