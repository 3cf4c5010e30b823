"""Fused element-wise operations of the draft, with explicit backward passes.

Autograd would keep every intermediate tensor; these keep only their inputs and need about half the
passes over memory. On CUDA each is compiled into one kernel. Statistics are in at least float32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import silu

from eagle3.kernels.compiled import compiled_on_cuda
from eagle3.kernels.torch_internals import silu_backward


def at_least_fp32(x: torch.Tensor) -> torch.Tensor:
    """`x` in at least float32."""
    return x if x.dtype == torch.float64 else x.float()


@compiled_on_cuda
def _norm(x: torch.Tensor, gain: torch.Tensor, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Normed x [N, ..., H], and the scale of each row [N, ..., 1]."""
    exact = at_least_fp32(x)
    square = torch.linalg.vecdot(exact, exact)
    scale = square.div_(x.shape[-1]).add_(eps).rsqrt_()[..., None]
    return (exact * scale).mul_(gain).to(x.dtype), scale


@compiled_on_cuda
def _norm_backward(
    dy: torch.Tensor, x: torch.Tensor, gain: torch.Tensor, scale: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of x [N, ..., H] and of the gain [..., H]."""
    dy, unit = at_least_fp32(dy), at_least_fp32(x) * scale
    dgain = (dy * unit).sum(0)
    dunit = dy * gain
    along = torch.linalg.vecdot(dunit, unit).div_(x.shape[-1])[..., None]
    return dunit.addcmul_(unit, along, value=-1).mul_(scale).to(x.dtype), dgain


@compiled_on_cuda
def _gain_gradient(dy: torch.Tensor, x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return (at_least_fp32(dy) * (at_least_fp32(x) * scale)).sum(0)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, gain: torch.Tensor, eps: float) -> torch.Tensor:
        normed, scale = _norm(x, gain, eps)
        ctx.save_for_backward(x, gain, scale)
        return normed

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        if ctx.needs_input_grad[0]:
            return *_norm_backward(grads[0], *ctx.saved_tensors), None
        x, _, scale = ctx.saved_tensors  # embeddings need no gradient
        return None, _gain_gradient(grads[0], x, scale), None


def rms_norm(x: torch.Tensor, gain: torch.Tensor, eps: float) -> torch.Tensor:
    """Root-mean-square norm of x [N, H] with a gain [H], in the type of x. With several vectors per
    row, [N, n, H], each has its gain, [n, H]."""
    return _RMSNorm.apply(x, gain, eps)


@compiled_on_cuda
def _gated(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    return silu(gate).mul_(up)


@compiled_on_cuda
def _gated_backward(
    dy: torch.Tensor, gate: torch.Tensor, up: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    return silu_backward(dy * up, gate), silu(gate).mul_(dy)


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gate, up)
        return _gated(gate, up)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return _gated_backward(grads[0], *ctx.saved_tensors)


def swiglu(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """silu(gate) * up"""
    return _SwiGLU.apply(gate, up)
