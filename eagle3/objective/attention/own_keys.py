"""A row's own keys of later steps: the part of the softmax that kernels of the prefix leave out.

Each query has one key of each earlier step, so its scores are sums over one head, not a matrix
product. On CUDA a step of any depth is one kernel forward, which gathers the keys, and two
backward; uncompiled, there would be ten kernels for each key, on float32 copies as large as the
queries. Sums are in at least float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from eagle3.kernels.compiled import compiled_on_cuda
from eagle3.kernels.fused_ops import at_least_fp32


@compiled_on_cuda
def merged_with_own(
    q: torch.Tensor,  # [A, heads, d]
    prefix: torch.Tensor,  # [A, heads, d], attention of the prefix alone
    prefix_lse: torch.Tensor,  # [A, heads], log-sum-exp of its scores
    own_k: Sequence[torch.Tensor],  # [A_j, kv_heads, d] of steps j = 1..k
    own_v: Sequence[torch.Tensor],
    index: Sequence[torch.Tensor],  # int64 [A], the own key of each query
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention of prefix and own keys [A, heads, d], and its log-sum-exp [A, heads]."""
    kv_heads = own_k[0].shape[1]
    queries = _by_key_head(q, kv_heads)  # [A, kv_heads, g, d]
    scores = _scores(queries, own_k, index)
    prefix_scores = prefix_lse.unflatten(1, (kv_heads, -1))
    maximum = prefix_scores
    for score in scores:
        maximum = torch.maximum(maximum, score)
    total = (prefix_scores - maximum).exp()
    for score in scores:
        total = total + (score - maximum).exp()
    lse = maximum + total.log()
    out = _by_key_head(prefix, kv_heads) * (prefix_scores - lse).exp()[..., None]
    for score, v, rows in zip(scores, own_v, index, strict=True):
        out = out + (score - lse).exp()[..., None] * _picked(v, rows)
    return out.flatten(1, 2).to(q.dtype), lse.flatten(1)


@compiled_on_cuda
def own_gradients(
    dout: torch.Tensor,  # [A, heads, d]
    q: torch.Tensor,
    merged: torch.Tensor,  # result of `merged_with_own`, and its log-sum-exp [A, heads]
    lse: torch.Tensor,
    dq: torch.Tensor,  # [A, heads, d], gradient of the queries through the prefix
    own_k: Sequence[torch.Tensor],
    own_v: Sequence[torch.Tensor],
    index: Sequence[torch.Tensor],
) -> list[torch.Tensor]:
    """Gradient of the queries, prefix included [A, heads, d]; then of the own key of each query
    [A, kv_heads, d], step by step, and of the own values."""
    kv_heads = own_k[0].shape[1]
    queries, d_out, out = (_by_key_head(t, kv_heads) for t in (q, dout, merged))
    logsum = lse.unflatten(1, (kv_heads, -1))
    inner = (d_out * out).sum(-1)
    d_queries = _by_key_head(dq, kv_heads)
    keys: list[torch.Tensor] = []
    values: list[torch.Tensor] = []
    scores = _scores(queries, own_k, index)
    for score, k, v, rows in zip(scores, own_k, own_v, index, strict=True):
        share = (score - logsum).exp()
        dscore = share * ((d_out * _picked(v, rows)).sum(-1) - inner) * q.shape[-1] ** -0.5
        d_queries = d_queries + dscore[..., None] * _picked(k, rows)
        keys.append((dscore[..., None] * queries).sum(2).to(k.dtype))
        values.append((share[..., None] * d_out).sum(2).to(v.dtype))
    return [d_queries.flatten(1, 2).to(q.dtype), *keys, *values]


@compiled_on_cuda
def prefix_gradients(
    dout: torch.Tensor,  # [A, heads, d]
    prefix: torch.Tensor,  # as `merged_with_own` takes them
    prefix_lse: torch.Tensor,
    merged: torch.Tensor,  # as it gave them
    lse: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of the prefix's attention [A, heads, d] and of its log-sum-exp [A, heads], for
    kernels that take both."""
    share, d_out = (prefix_lse - lse).exp(), at_least_fp32(dout)
    difference = at_least_fp32(prefix) - at_least_fp32(merged)
    return (share[..., None] * d_out).to(prefix.dtype), share * (d_out * difference).sum(-1)


class _Merged(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        index: Sequence[torch.Tensor],
        q: torch.Tensor,
        prefix: torch.Tensor,
        prefix_lse: torch.Tensor,
        *own: torch.Tensor,
    ) -> torch.Tensor:
        steps = len(index)
        merged, lse = merged_with_own(q, prefix, prefix_lse, own[:steps], own[steps:], index)
        ctx.index = index
        ctx.save_for_backward(q, prefix, prefix_lse, merged, lse, *own)
        return merged

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q, prefix, prefix_lse, merged, lse, *own = ctx.saved_tensors
        (dout,), index = grads, ctx.index
        dprefix, dlse = prefix_gradients(dout, prefix, prefix_lse, merged, lse)
        dq, *by_query = own_gradients(
            dout, q, merged, lse, torch.zeros_like(q), own[: len(index)], own[len(index) :], index
        )
        return None, dq, dprefix, dlse, *scatter_to_own_rows(by_query, own, index)


def merge(
    q: torch.Tensor,
    prefix: torch.Tensor,
    prefix_lse: torch.Tensor,
    own_k: Sequence[torch.Tensor],
    own_v: Sequence[torch.Tensor],
    index: Sequence[torch.Tensor],
) -> torch.Tensor:
    """`merged_with_own` as a part of autograd's graph, log-sum-exp of the prefix included."""
    return _Merged.apply(index, q, prefix, prefix_lse, *own_k, *own_v)


def scatter_to_own_rows(
    by_query: Sequence[torch.Tensor], own: Sequence[torch.Tensor], index: Sequence[torch.Tensor]
) -> list[torch.Tensor]:
    """Gradients of own keys and values, shaped like `own`, from those by query: each query reads
    another row."""
    by_own = zip(by_query, own, [*index, *index], strict=True)
    return [torch.zeros_like(tensor).index_copy_(0, rows, part) for part, tensor, rows in by_own]


def _by_key_head(x: torch.Tensor, kv_heads: int) -> torch.Tensor:
    """[A, heads, d] -> [A, kv_heads, g, d], at least float32"""
    return at_least_fp32(x).unflatten(1, (kv_heads, -1))


def _picked(own: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Each query's own key or value [A, kv_heads, 1, d]."""
    return at_least_fp32(own[rows])[:, :, None]


def _scores(
    queries: torch.Tensor, own_k: Sequence[torch.Tensor], index: Sequence[torch.Tensor]
) -> list[torch.Tensor]:
    """Scores of each step [A, kv_heads, g]."""
    scale = queries.shape[-1] ** -0.5
    pairs = zip(own_k, index, strict=True)
    return [(queries * _picked(k, at)).sum(-1) * scale for k, at in pairs]
