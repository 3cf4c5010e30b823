"""Attention of the training-time test: a causal prefix plus a row's own later keys.

Query row t at step k sees the keys of step 0 at rows <= t of its document, and its own keys of
steps 1..k (not those of other rows). For document rows 0..3 at step 2, row 2 being inactive:

                 step-0 keys          own keys
    row          0  1  2  3           k=1  k=2
     0           x                     x    x
     1           x  x                  x    x
     3           x  x  x  x            x    x

Every back end computes the same; `reference` is the plain form that the others are tested against.
None but it ever holds scores of all queries against all keys.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from eagle3.draft.chains import exact


@dataclass(frozen=True)
class Queries:
    """Where the queries of a step stand among the T rows that have keys of step 0."""

    rows: torch.Tensor  # int64 [A], ascending
    starts: torch.Tensor  # int64 [A], first row of each query's document
    own: Sequence[torch.Tensor]  # int64 [A] for each step 1..k, where its own keys stand there


@dataclass(frozen=True)
class Keys:
    """Keys and values, rotated."""

    k0: torch.Tensor  # [T, kv_heads, d], of step 0
    v0: torch.Tensor
    own_k: Sequence[torch.Tensor] = ()  # [A_j, kv_heads, d] of steps j = 1..k
    own_v: Sequence[torch.Tensor] = ()


# queries [A, heads, d], rotated -> attended values [A, heads d]
Attention = Callable[[torch.Tensor, Keys, Queries], torch.Tensor]


def reference_attention(q: torch.Tensor, keys: Keys, queries: Queries) -> torch.Tensor:
    """One dense score matrix [A, kv, g, T + k]; for tests and for looking things up."""
    k0, v0 = keys.k0, keys.v0
    kv_heads, d = k0.shape[1:]
    grouped = q.unflatten(1, (kv_heads, -1)) * d**-0.5  # [A, kv, g, d]
    key = torch.arange(len(k0), device=q.device)
    seen = (key <= queries.rows[:, None]) & (key >= queries.starts[:, None])  # [A, T]
    scores = exact(torch.einsum("akgd,tkd->akgt", grouped, k0))
    scores = scores.masked_fill(~seen[:, None, None], float("-inf"))
    mine = [k[index] for k, index in zip(keys.own_k, queries.own, strict=True)]
    own = [exact((grouped * k[:, :, None]).sum(-1, keepdim=True)) for k in mine]
    weights = torch.cat((scores, *own), dim=-1).softmax(-1).to(v0.dtype)
    shared, *shares = weights.split([len(k0), *[1] * len(own)], dim=-1)  # [A, kv, g, T | 1]
    attended = torch.einsum("akgt,tkd->akgd", shared, v0)
    for share, v, index in zip(shares, keys.own_v, queries.own, strict=True):
        attended = attended + share * v[index][:, :, None]
    return attended.flatten(1)
