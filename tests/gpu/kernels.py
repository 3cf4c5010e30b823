"""Operators that a CPU build of PyTorch lacks, with the checks that CUDA's kernels make.

Plain and in float32; what they refuse is read from PyTorch's sources (flash_api.cpp,
flex_attention.py of Inductor, the meta function of mm.dtype).
"""

from __future__ import annotations

import math
from itertools import pairwise
from types import SimpleNamespace

import torch

aten = torch.ops.aten
HALF_PRECISION = (torch.float16, torch.bfloat16)


def mm_wide(a: torch.Tensor, b: torch.Tensor, out_dtype: torch.dtype) -> torch.Tensor:
    """aten::mm.dtype"""
    wide = out_dtype == torch.float32 and a.dtype in HALF_PRECISION
    if a.dtype != b.dtype or not (wide or out_dtype == a.dtype):
        raise RuntimeError("out_dtype must be the type of the inputs, or float32 for halves")
    return a.float() @ b.float()


def addmm_wide(added, a, b, out_dtype, *, out, beta=1, alpha=1):
    """aten::addmm.dtype_out, in place"""
    assert beta == alpha == 1
    if out_dtype != out.dtype or added.dtype not in (out_dtype, a.dtype):
        raise RuntimeError("self dtype must match either out_dtype or mat1 dtype")
    return out.copy_(added + mm_wide(a, b, out_dtype))


def flash(q, k, v, bounds_q, bounds_k, _longest_q, _longest_k, dropout, causal, _debug):
    """aten::_flash_attention_forward, of documents between bounds."""
    _check_flash(q, k, v, bounds_q, bounds_k)
    assert causal and dropout == 0.0
    outs, lses = [], []
    for at in _documents(bounds_q):
        weights, lse, values = _weights(q[at], k[at], v[at])
        outs.append(torch.einsum("hqk,khd->qhd", weights, values))
        lses.append(lse)
    state = torch.empty(2, dtype=torch.uint64), torch.empty((), dtype=torch.uint64)
    return torch.cat(outs).to(q.dtype), torch.cat(lses, 1).contiguous(), *state, q.new_empty(0)


def flash_backward(
    dout, q, k, v, out, lse, bounds_q, bounds_k, _lq, _lk, _dropout, causal, seed, _unused
):
    """aten::_flash_attention_backward; `lse` may be that of a larger softmax, as in the kernel."""
    _check_flash(q, k, v, bounds_q, bounds_k)
    assert dout.dtype == out.dtype == q.dtype and seed.dtype == torch.uint64 and causal
    assert lse.dtype == torch.float32 and lse.shape == (q.shape[1], len(q)) and lse.is_contiguous()
    group, scale = q.shape[1] // k.shape[1], q.shape[-1] ** -0.5
    dq, dk, dv = (torch.empty_like(t) for t in (q, k, v))
    for at in _documents(bounds_q):
        weights, _, values = _weights(q[at], k[at], v[at], lse[:, at])
        down, outs = dout[at].float(), out[at].float()
        d_weights = torch.einsum("qhd,khd->hqk", down, values)
        d_scores = weights * (d_weights - (down * outs).sum(-1).T[..., None]) * scale
        keys = k[at].float().repeat_interleave(group, 1)
        dq[at] = torch.einsum("hqk,khd->qhd", d_scores, keys).to(q.dtype)
        for into, part, of in ((dk, d_scores, q[at].float()), (dv, weights, down)):
            each = torch.einsum("hqk,qhd->khd", part, of)
            into[at] = each.unflatten(1, (-1, group)).sum(2).to(q.dtype)
    return dq, dk, dv


def flash_scratch(_dout, q, k, _v, _out, _lse, bounds_q, *_more):
    """Bytes that the kernel takes for itself (mha_varlen_bwd of flash_api.cpp): gradients of
    queries summed in float32, and of keys and values for each head of queries."""
    row = q.shape[1] * q.shape[2]
    queries = 4 * (len(q) + 128 * (len(bounds_q) - 1)) * row
    shared = q.shape[1] != k.shape[1]
    return queries + shared * 2 * k.element_size() * len(k) * row


def _check_flash(q, k, v, *bounds):
    if q.dtype not in HALF_PRECISION or not q.dtype == k.dtype == v.dtype:
        raise RuntimeError(f"FlashAttention only support fp16 and bf16 data type, not {q.dtype}")
    if q.shape[-1] % 8 or q.shape[-1] > 256:
        raise RuntimeError(f"head_size must be a multiple of 8, at most 256, not {q.shape[-1]}")
    assert q.shape[1] % k.shape[1] == 0 and q.stride(-1) == k.stride(-1) == v.stride(-1) == 1
    assert all(b.dtype == torch.int32 and b.is_contiguous() and b.dim() == 1 for b in bounds)


def _documents(bounds):
    return [slice(first, stop) for first, stop in pairwise(bounds.tolist())]


def _weights(q, k, v, lse=None):
    """Causal softmax weights [heads, S, S], log-sum-exp [heads, S], values by query head."""
    group = q.shape[1] // k.shape[1]
    q, k, v = q.float(), *(t.float().repeat_interleave(group, 1) for t in (k, v))
    scores = torch.einsum("qhd,khd->hqk", q, k) * q.shape[-1] ** -0.5
    later = torch.ones(len(q), len(q), dtype=torch.bool).triu(1)
    scores = scores.masked_fill(later, -math.inf)
    lse = scores.logsumexp(-1) if lse is None else lse
    return (scores - lse[..., None]).exp(), lse, v


EMULATED = {
    aten.mm.dtype: mm_wide,
    aten.addmm.dtype_out: addmm_wide,
    aten._flash_attention_forward.default: flash,
    aten._flash_attention_backward.default: flash_backward,
}

SCRATCH = {aten._flash_attention_backward.default: flash_scratch}


def flex(q, k, v, block_mask, enable_gqa, return_aux):
    """Compiled flex attention as this project calls it, dense; autograd does the backward pass."""
    if q.shape[-1] < 16:
        raise NotImplementedError(
            f"NYI: embedding dimension must be at least 16, not {q.shape[-1]}"
        )
    group = q.shape[1] // k.shape[1]
    assert return_aux.lse and enable_gqa == (group > 1)
    keys, values = (t.float().repeat_interleave(group, 1) for t in (k, v))
    rows = torch.arange(q.shape[2], device=q.device)[:, None]
    columns = torch.arange(k.shape[2], device=q.device)
    seen = block_mask(None, None, rows, columns)
    scores = (q.float() @ keys.mT * q.shape[-1] ** -0.5).masked_fill(~seen, -math.inf)
    lse = scores.logsumexp(-1)
    out = ((scores - lse[..., None]).exp() @ values).to(q.dtype)
    return out, SimpleNamespace(lse=lse)
