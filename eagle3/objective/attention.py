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
    """Where documents begin among keys and queries (Python ints: they shape the computation)."""

    key_offsets: list[int]  # [D + 1]
    query_offsets: list[int]  # [D + 1]


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
    out = []
    for document in range(len(segments.key_offsets) - 1):
        keys = slice(*segments.key_offsets[document : document + 2])
        queries = slice(*segments.query_offsets[document : document + 2])
        if queries.start == queries.stop:
            continue
        mine = grouped[queries]
        scores = torch.einsum("akgd,tkd->akgt", mine, k0[keys]).to(exact)
        later = torch.arange(keys.start, keys.stop, device=q.device) > rows[queries, None]
        scores = scores.masked_fill(later[:, None, None, :], float("-inf"))
        own = [(mine * k[queries, :, None]).sum(-1, keepdim=True).to(exact) for k in own_k]
        weights = torch.cat((scores, *own), dim=-1).softmax(-1).to(v0.dtype)  # [A_d, kv, g, t+k]
        size = scores.shape[-1]
        attended = torch.einsum("akgt,tkd->akgd", weights[..., :size], v0[keys])
        for step, v in enumerate(own_v):
            share = weights[..., size + step, None]
            attended = attended + share * v[queries, :, None]
        out.append(attended.flatten(1, 2))
    return torch.cat(out) if out else q
