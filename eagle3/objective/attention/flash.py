"""PyTorch's own flash attention for the prefix, merged with the own-row terms by log-sum-exp.

The kernels compute whole documents, so rows without a query are filled in and ignored: documents
are computed up to their last active row. Forward, the kernel's output and log-sum-exp are merged
with the own terms:

    lse = log(exp(lse_prefix) + sum_j exp(s_j))
    out = exp(lse_prefix - lse) out_prefix + sum_j exp(s_j - lse) v_j

Backward, the kernel is given the *merged* output and log-sum-exp: then its weights are exp(s - lse)
and its row sums out * dout are those of the whole softmax, so the result is exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from eagle3.kernels import torch_internals
from eagle3.kernels.fused_ops import at_least_fp32
from eagle3.objective.attention.interface import Keys, Queries
from eagle3.objective.attention.own_keys import (
    merged_with_own,
    own_gradients,
    scatter_to_own_rows,
)
from eagle3.objective.host_tensors import tree_to_device


@dataclass(frozen=True)
class QueriedDocuments:
    """Documents that have queries, each up to its last one, concatenated."""

    keys: torch.Tensor  # int64 [S], rows among the T keys
    at: torch.Tensor  # int64 [A], index of each query among these
    bounds: torch.Tensor  # int32 [D + 1], first row of each; as CUDA's kernel takes them
    lengths: list[int]

    @classmethod
    def of(cls, queries: Queries) -> QueriedDocuments:
        device, queries = queries.rows.device, queries.on_host
        starts, counts = queries.starts.unique_consecutive(return_counts=True)
        last = queries.rows[counts.cumsum(0) - 1]
        lengths = last + 1 - starts  # [D]
        first = lengths.cumsum(0) - lengths  # where each document begins here
        shift = starts - first
        keys = torch.arange(int(lengths.sum()), device=starts.device)
        keys = keys + shift.repeat_interleave(lengths)
        at = queries.rows - shift.repeat_interleave(counts)
        bounds = torch.cat((lengths.new_zeros(1), lengths.cumsum(0))).int()
        return cls(*tree_to_device((keys, at, bounds), device), lengths.tolist())

    @property
    def longest(self) -> int:
        """Rows of the longest document."""
        return max(self.lengths)


class _Flash(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        queries: Queries,
        q: torch.Tensor,  # [A, heads, d]
        k0: torch.Tensor,  # [T, kv_heads, d]
        v0: torch.Tensor,
        *own: torch.Tensor,
    ) -> torch.Tensor:
        documents, steps = QueriedDocuments.of(queries), len(own) // 2
        padded_q = q.new_zeros(len(documents.keys), *q.shape[1:])
        padded_q[documents.at] = q
        out, lse, state = _prefix(padded_q, k0[documents.keys], v0[documents.keys], documents)
        merged, merged_lse = out[documents.at], lse[documents.at]
        if own:
            terms = own[:steps], own[steps:], queries.own
            merged, merged_lse = merged_with_own(q, merged, merged_lse, *terms)
        ctx.queries, ctx.documents, ctx.state = queries, documents, state
        ctx.save_for_backward(q, k0, v0, merged, merged_lse, lse, *own)
        return merged

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q, k0, v0, merged, merged_lse, lse, *own = ctx.saved_tensors
        documents, (dout,) = ctx.documents, grads
        # rows without a query: no output, no gradient, and any finite log-sum-exp
        padded_q, padded_out, padded_dout = (
            q.new_zeros(len(documents.keys), *q.shape[1:]).index_copy_(0, documents.at, t)
            for t in (q, merged, dout)
        )
        padded_lse = lse.index_copy(0, documents.at, merged_lse)
        keys, values = k0[documents.keys], v0[documents.keys]
        dq, dk, dv = _prefix_backward(
            padded_dout, padded_q, keys, values, padded_out, padded_lse, documents, ctx.state
        )
        dq, d_own = dq[documents.at], list[torch.Tensor]()
        if own:
            steps, index = len(own) // 2, ctx.queries.own
            terms = own[:steps], own[steps:], index
            dq, *by_query = own_gradients(dout, q, merged, merged_lse, dq, *terms)
            d_own = scatter_to_own_rows(by_query, own, index)
        dk0 = torch.zeros_like(k0).index_copy_(0, documents.keys, dk)
        dv0 = torch.zeros_like(v0).index_copy_(0, documents.keys, dv)
        return None, dq, dk0, dv0, *d_own


def _prefix(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, documents: QueriedDocuments
) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, ...]]:
    """Causal attention of each document: output [S, heads, d], log-sum-exp [S, heads], and the
    kernel's state for the backward pass."""
    if q.device.type == "cuda":
        out, lse, state = torch_internals.cuda_flash_attention(
            q, k, v, documents.bounds, documents.longest
        )
        return out, lse.T, state
    outs, lses = [], []
    for parts in zip(*(t.split(documents.lengths) for t in _expanded(q, k, v)), strict=True):
        by_head = (t.transpose(0, 1)[None] for t in parts)
        out, lse = torch_internals.cpu_flash_attention(*by_head)
        outs.append(out[0].transpose(0, 1))
        lses.append(lse[0].transpose(0, 1))
    return torch.cat(outs), at_least_fp32(torch.cat(lses)), ()


def _prefix_backward(
    dout: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    documents: QueriedDocuments,
    state: tuple[torch.Tensor, ...],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of q [S, heads, d], k and v [S, kv_heads, d]."""
    if q.device.type == "cuda":
        by_head_lse = lse.T.contiguous()
        return torch_internals.cuda_flash_attention_backward(
            dout, q, k, v, out, by_head_lse, documents.bounds, documents.longest, state
        )
    by_part = []
    tensors = (dout, *_expanded(q, k, v), out, lse)
    for parts in zip(*(t.split(documents.lengths) for t in tensors), strict=True):
        dout_h, q_h, k_h, v_h, out_h, lse_h = (t.transpose(0, 1)[None] for t in parts)
        gradients = torch_internals.cpu_flash_attention_backward(
            dout_h, q_h, k_h, v_h, out_h, lse_h.contiguous()
        )
        by_part.append([t[0].transpose(0, 1) for t in gradients])
    dq, dk, dv = (torch.cat(pieces) for pieces in zip(*by_part, strict=True))
    grouped = [t.unflatten(1, (k.shape[1], -1)).sum(2) for t in (dk, dv)]
    return dq, grouped[0], grouped[1]


def _expanded(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """q, and k and v repeated for each query head: the CPU's kernel does not support groups."""
    group = q.shape[1] // k.shape[1]
    return q, k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)


def flash_attention(q: torch.Tensor, keys: Keys, queries: Queries) -> torch.Tensor:
    """Attention of one step; see `interface.Backend`."""
    own = (*keys.own_k, *keys.own_v)
    return _Flash.apply(queries, q, keys.k0, keys.v0, *own).flatten(1)
