"""Matrix products of training: low-precision operands, weight gradients in the type of the weights.

A weight is used once per TTT step. Plain autocast would add up its gradients in low precision; here
they are summed in place in the type of the master weight.
"""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path
from typing import Any

import torch

from eagle3.kernels.gradient_sum import GradientSum
from eagle3.kernels.torch_internals import multiplies_bfloat16, onednn_linear


@cache
def onednn_is_faster() -> bool:
    """Whether oneDNN multiplies float32 matrices faster: twice as fast on AMD processors with
    AVX-512, where PyTorch's math library takes a slow path; with AVX2 there is no difference."""
    cpuinfo = Path("/proc/cpuinfo")
    return (
        torch.backends.mkldnn.is_available()
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and cpuinfo.exists()
        and "AuthenticAMD" in cpuinfo.read_text()
    )


@cache
def bfloat16_is_emulated() -> bool:
    """Whether this is an x86 processor without bfloat16 instructions, which multiplies bfloat16
    matrices ten times slower than float32 ones."""
    return platform.machine() in ("x86_64", "AMD64") and not multiplies_bfloat16()


def as_factor(x: torch.Tensor) -> torch.Tensor:
    """`x` in the type in which the device should multiply it: products of bfloat16 numbers are
    exact in float32, in which a processor with bfloat16 instructions also adds them up."""
    emulated = x.dtype == torch.bfloat16 and x.device.type == "cpu" and bfloat16_is_emulated()
    return x.float() if emulated else x


def times_transposed(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a [M, K] times the transpose of b [N, K] -> [M, N], in the type of `a`"""
    return _product(as_factor(a), as_factor(b)).to(a.dtype)


def _product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    single = a.dtype == torch.float32 and a.device.type == "cpu"
    # a rank may have no rows of a pack, and oneDNN refuses empty operands
    if single and a.numel() and b.numel() and onednn_is_faster():
        # oneDNN is 50 times slower with strided operands
        a, b = a.contiguous(), b.contiguous()
        return onednn_linear(a, b)
    return a @ b.t()


def weight_gradient(dy: torch.Tensor, x: torch.Tensor, wide: torch.dtype) -> torch.Tensor:
    """dy [N, out] and x [N, in] -> [out, in] in type `wide`, summed in that type on CUDA and on
    CPUs without native products of the type of `dy`."""
    if wide != dy.dtype and dy.device.type == "cuda":
        return torch.mm(dy.t(), x, out_dtype=wide)
    return _product(as_factor(dy).t(), as_factor(x).t()).to(wide)


def add_weight_gradient(total: torch.Tensor, dy: torch.Tensor, x: torch.Tensor) -> None:
    """Add the `weight_gradient` of dy [N, out] and x [N, in] to `total` [out, in]; on CUDA within
    the product, in a single pass over it."""
    if dy.device.type != "cuda":
        total += weight_gradient(dy, x, total.dtype)
    elif total.dtype == dy.dtype:
        total.addmm_(dy.t(), x)
    else:
        torch.addmm(total, dy.t(), x, out_dtype=total.dtype, out=total)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        _weight: torch.Tensor,
        narrow: torch.Tensor,
        gradient: GradientSum,
        first: int,
    ) -> torch.Tensor:
        ctx.save_for_backward(x, narrow)
        ctx.gradient, ctx.first = gradient, first
        return times_transposed(x, narrow)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (dy,) = grads
        x, narrow = ctx.saved_tensors
        need_x, need_weight, *_ = ctx.needs_input_grad
        dx = times_transposed(dy, narrow.t()) if need_x else None
        if need_weight:
            _add_product(ctx.gradient, dy, x, ctx.first)
        return dx, None, None, None, None


def _add_product(gradient: GradientSum, dy: torch.Tensor, x: torch.Tensor, first: int) -> None:
    count = dy.shape[1]
    if gradient.total is None and count == gradient.shape[0]:
        gradient.total = weight_gradient(dy, x, gradient.dtype)
    else:
        add_weight_gradient(gradient.so_far()[first : first + count], dy, x)


def linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    narrow: torch.Tensor,
    gradient: GradientSum,
    first: int = 0,
) -> torch.Tensor:
    """x [N, in] times the rows of a weight [out, in] from `first` on -> [N, n], computed in the
    type of `narrow` [n, in]: those rows in the type of `x`.

    `weight` and `gradient` come from `gradient_sum.shared`.
    """
    return _Linear.apply(x, weight, narrow, gradient, first)
