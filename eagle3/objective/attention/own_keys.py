"""A row's own later keys beside its prefix: the part of the softmax that flash kernels know not of.

Each query has one key of each earlier step, so its scores are sums over one head and no matrix
product. On CUDA a step of any depth is one kernel forward, which looks keys up where they lie, and
two backward; written operation by operation there would be ten for each key, on float32 copies as
large as the queries. Sums are in at least float32.
"""

from __future__ import annotations

from collections.abc import Sequence

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
    before = prefix_lse.unflatten(1, (kv_heads, -1))
    top = before
    for score in scores:
        top = torch.maximum(top, score)
    total = (before - top).exp()
    for score in scores:
        total = total + (score - top).exp()
    lse = top + total.log()
    out = _by_key_head(prefix, kv_heads) * (before - lse).exp()[..., None]
    for score, v, at in zip(scores, own_v, index, strict=True):
        out = out + (score - lse).exp()[..., None] * _picked(v, at)
    return out.flatten(1, 2).to(q.dtype), lse.flatten(1)


@compiled_on_cuda
def own_gradients(
    dout: torch.Tensor,  # [A, heads, d]
    q: torch.Tensor,
    merged: torch.Tensor,  # as `merged_with_own` gave it, and its log-sum-exp [A, heads]
    lse: torch.Tensor,
    dq: torch.Tensor,  # [A, heads, d], gradient of the queries through the prefix
    own_k: Sequence[torch.Tensor],
    own_v: Sequence[torch.Tensor],
    index: Sequence[torch.Tensor],
) -> list[torch.Tensor]:
    """Gradient of the queries, prefix included [A, heads, d]; then of the own key of each query
    [A, kv_heads, d], step by step, and of the own values."""
    kv_heads = own_k[0].shape[1]
    queries, down, out = (_by_key_head(t, kv_heads) for t in (q, dout, merged))
    logsum = lse.unflatten(1, (kv_heads, -1))
    inner = (down * out).sum(-1)
    into_q = _by_key_head(dq, kv_heads)
    keys: list[torch.Tensor] = []
    values: list[torch.Tensor] = []
    scores = _scores(queries, own_k, index)
    for score, k, v, at in zip(scores, own_k, own_v, index, strict=True):
        share = (score - logsum).exp()
        dscore = share * ((down * _picked(v, at)).sum(-1) - inner) * q.shape[-1] ** -0.5
        into_q = into_q + dscore[..., None] * _picked(k, at)
        keys.append((dscore[..., None] * queries).sum(2))
        values.append((share[..., None] * down).sum(2))
    return [into_q.flatten(1, 2).to(q.dtype), *keys, *values]


def _by_key_head(x: torch.Tensor, kv_heads: int) -> torch.Tensor:
    """[A, heads, d] -> [A, kv_heads, g, d], at least float32"""
    return at_least_fp32(x).unflatten(1, (kv_heads, -1))


def _picked(own: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    """Each query's own key or value [A, kv_heads, 1, d]."""
    return at_least_fp32(own[at])[:, :, None]


def _scores(
    queries: torch.Tensor, own_k: Sequence[torch.Tensor], index: Sequence[torch.Tensor]
) -> list[torch.Tensor]:
    """Scores of each step [A, kv_heads, g]."""
    scale = queries.shape[-1] ** -0.5
    pairs = zip(own_k, index, strict=True)
    return [(queries * _picked(k, at)).sum(-1) * scale for k, at in pairs]
