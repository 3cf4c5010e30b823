"""Matrix products of training: narrow operands, and weight gradients as wide as the weights.

A weight is used once per TTT step. Under plain autocast its gradients would be added up in the
narrow type; here each product's gradient is returned in the type of the master weight.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch


@cache
def onednn_is_faster() -> bool:
    """On AMD's processors with AVX-512, where the math library that PyTorch comes with takes a slow
    path, oneDNN multiplies float32 matrices twice as fast; with AVX2 there is no difference."""
    cpuinfo = Path("/proc/cpuinfo")
    return (
        torch.backends.mkldnn.is_available()
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and cpuinfo.exists()
        and "AuthenticAMD" in cpuinfo.read_text()
    )


def times_transposed(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a [M, K] times the transpose of b [N, K] -> [M, N]"""
    if a.dtype == torch.float32 and a.device.type == "cpu" and onednn_is_faster():
        # strided operands would be 50 times slower there
        a, b = a.contiguous(), b.contiguous()
        return torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")
    return a @ b.t()


def weight_gradient(dy: torch.Tensor, x: torch.Tensor, wide: torch.dtype) -> torch.Tensor:
    """dy [N, out] and x [N, in] -> [out, in] in type `wide`, summed up at that width on CUDA."""
    if wide == dy.dtype:
        return times_transposed(dy.t(), x.t())
    if dy.device.type == "cuda":
        return torch.mm(dy.t(), x, out_dtype=wide)
    return (dy.t() @ x).to(wide)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, narrow: torch.Tensor
    ) -> torch.Tensor:
        ctx.save_for_backward(x, narrow)
        ctx.wide = weight.dtype
        return times_transposed(x, narrow)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (dy,) = grads
        x, narrow = ctx.saved_tensors
        need_x, need_weight, _ = ctx.needs_input_grad
        dx = times_transposed(dy, narrow.t()) if need_x else None
        dw = weight_gradient(dy, x, ctx.wide) if need_weight else None
        return dx, dw, None


def linear(x: torch.Tensor, weight: torch.Tensor, narrow: torch.Tensor) -> torch.Tensor:
    """x [N, in] times a weight [out, in] -> [N, out], computed in the type of `narrow`.

    `narrow` is the weight in the type of `x` (the weight itself where that is the same).
    """
    return _Linear.apply(x, weight, narrow)
