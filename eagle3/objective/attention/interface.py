"""Attention of the training-time test: a causal prefix plus a row's own later keys.

Query row t at step k sees the keys of step 0 at rows <= t of its document (within its sliding
window, if there is one), and its own keys of steps 1..k, not those of other rows. For document rows
0..3 at step 2, row 2 being inactive:

                 step-0 keys          own keys
    row          0  1  2  3           k=1  k=2
     0           x                     x    x
     1           x  x                  x    x
     3           x  x  x  x            x    x

Every back end computes the same; `reference` is the plain form that the others are tested against,
and the only one that holds the scores of all queries and keys.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from eagle3.kernels.fused_ops import at_least_fp32

KeyValue = tuple[torch.Tensor, torch.Tensor]  # keys and values
EVERY = -1  # instead of a step: the queries of all rows at step 0, if there are several layers


@dataclass(frozen=True)
class Queries:
    """The positions of a step's queries among the T rows that have keys of step 0."""

    rows: torch.Tensor  # int64 [A], ascending
    starts: (
        torch.Tensor
    )  # int64 [A], first row that each query sees: its document's, or its window's
    own: Sequence[torch.Tensor]  # int64 [A] for each step 1..k, indices of its own keys
    host: Queries | None = None  # the same on the host, where they were made

    @property
    def on_host(self) -> Queries:
        """The copy on the host, if any: its sizes are read without waiting for the device."""
        return self.host or self


@dataclass(frozen=True)
class Keys:
    """Keys and values, rotated."""

    k0: torch.Tensor  # [T, kv_heads, d], of step 0
    v0: torch.Tensor
    own_k: Sequence[torch.Tensor] = ()  # [A_j, kv_heads, d] of steps j = 1..k
    own_v: Sequence[torch.Tensor] = ()

    def with_own(self, own: KeyValue | None) -> Keys:
        """The same with the keys and values of one more step."""
        if own is None:
            return self
        return replace(self, own_k=[*self.own_k, own[0]], own_v=[*self.own_v, own[1]])


# queries [A, heads, d], rotated -> attended values [A, heads d]
Backend = Callable[[torch.Tensor, Keys, Queries], torch.Tensor]


class Attention(Protocol):
    """Attention of all steps of a pack."""

    def keys(self, k0: torch.Tensor, v0: torch.Tensor) -> Keys:
        """Keys and values of step 0 [T, kv_heads, d], rotated, in the form that `attend` takes."""

    def attend(
        self, step: int, q: torch.Tensor, own: KeyValue | None, keys: Keys
    ) -> tuple[torch.Tensor, Keys]:
        """Rotated queries [A_k, heads, d] of a step -> attended values [A_k, heads d], and the keys
        for the next step. `own`: the keys and values [A_k, kv_heads, d] that later steps add.
        Step `EVERY` has a query of every row that is held here [T, heads, d]."""


class PackAttention:
    """Attention of all steps of a pack through one back end."""

    def __init__(self, backend: Backend, queries: Sequence[Queries]) -> None:
        """`queries` of each step, and those of every row at the end if there are several layers."""
        self.backend, self.queries = backend, queries

    def keys(self, k0: torch.Tensor, v0: torch.Tensor) -> Keys:
        """See `Attention`."""
        # head-major in memory: else back ends would make and keep a copy at every step
        k0, v0 = (t.transpose(0, 1).contiguous().transpose(0, 1) for t in (k0, v0))
        return Keys(k0, v0)

    def attend(
        self, step: int, q: torch.Tensor, own: KeyValue | None, keys: Keys
    ) -> tuple[torch.Tensor, Keys]:
        """See `Attention`."""
        keys = keys.with_own(own)
        return self.backend(q, keys, self.queries[step]), keys


def reference_attention(q: torch.Tensor, keys: Keys, queries: Queries) -> torch.Tensor:
    """One dense score matrix [A, kv, g, T + k]; for tests and inspection."""
    k0, v0 = keys.k0, keys.v0
    kv_heads, d = k0.shape[1:]
    grouped = q.unflatten(1, (kv_heads, -1)) * d**-0.5  # [A, kv, g, d]
    key = torch.arange(len(k0), device=q.device)
    visible = (key <= queries.rows[:, None]) & (key >= queries.starts[:, None])  # [A, T]
    scores = at_least_fp32(torch.einsum("akgd,tkd->akgt", grouped, k0))
    scores = scores.masked_fill(~visible[:, None, None], float("-inf"))
    own_keys = [k[index] for k, index in zip(keys.own_k, queries.own, strict=True)]
    own = [at_least_fp32((grouped * k[:, :, None]).sum(-1, keepdim=True)) for k in own_keys]
    weights = torch.cat((scores, *own), dim=-1).softmax(-1).to(v0.dtype)
    shared, *shares = weights.split([len(k0), *[1] * len(own)], dim=-1)  # [A, kv, g, T | 1]
    attended = torch.einsum("akgt,tkd->akgd", shared, v0)
    for share, v, index in zip(shares, keys.own_v, queries.own, strict=True):
        attended = attended + share * v[index][:, :, None]
    return attended.flatten(1)
