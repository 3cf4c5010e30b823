"""Projections become attention heads: add rows of a table, rotate and cast, in one pass.

On CUDA it is one compiled function each way. The gradients of the table's rows are added to one sum
(`gradient_sum`), since each TTT step looks up other rows of the same table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from eagle3.kernels.compiled import compiled_on_cuda
from eagle3.kernels.fused_ops import at_least_fp32
from eagle3.kernels.gradient_sum import GradientSum


@dataclass(frozen=True)
class Angles:
    """Rotary angles of N rows."""

    cos: torch.Tensor  # [P, 1, d / 2], of every position
    sin: torch.Tensor
    positions: torch.Tensor  # int64 [N]


@dataclass(frozen=True)
class TableRows:
    """Rows of a table that N rows look up; `table` and `gradient` come from `shared`."""

    table: torch.Tensor  # [M, C], at least float32
    gradient: GradientSum
    index: torch.Tensor  # int64 [N]


@compiled_on_cuda
def _heads(
    x: torch.Tensor,  # [N, n d]
    table: torch.Tensor | None,  # [M, n d or more]
    index: torch.Tensor | None,
    cos: torch.Tensor,
    sin: torch.Tensor,
    positions: torch.Tensor,
    rotated: int,  # how many of the heads are rotated, the first ones
    dtype: torch.dtype,
) -> torch.Tensor:
    """Heads [N, n, d]."""
    sums = at_least_fp32(x)
    if table is not None and index is not None:
        sums = table[:, : x.shape[1]].index_select(0, index).add_(x)
    heads = sums.unflatten(1, (-1, 2 * cos.shape[-1]))
    out = torch.empty_like(heads, dtype=dtype)
    _rotate(heads, out, cos[positions], sin[positions], rotated)
    return out


@compiled_on_cuda
def _heads_backward(
    grads: list[torch.Tensor],  # [N, .., d] each, side by side the gradient of the heads
    cos: torch.Tensor,
    sin: torch.Tensor,
    positions: torch.Tensor,
    rotated: int,
    dtype: torch.dtype,
) -> list[torch.Tensor]:
    """Gradient of the sums [N, n d], and the same in `dtype` if that is narrower."""
    d_heads = torch.cat([at_least_fp32(part) for part in grads], 1)
    d_sums = torch.empty_like(d_heads)
    _rotate(d_heads, d_sums, cos[positions], -sin[positions], rotated)  # by the opposite angle
    d_sums = d_sums.flatten(1)
    return [d_sums] if dtype == d_sums.dtype else [d_sums, d_sums.to(dtype)]


def _rotate(
    heads: torch.Tensor, out: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, rotated: int
) -> None:
    """Write heads [N, n, d], the first `rotated` of them rotated, to `out`."""
    low, high = heads[:, :rotated].chunk(2, dim=-1)
    out_low, out_high = out[:, :rotated].chunk(2, dim=-1)
    # copied, since compiled code does not support a strided `out=`
    out_low.copy_((low * cos).addcmul_(high, sin, value=-1))
    out_high.copy_((high * cos).addcmul_(low, sin))
    out[:, rotated:].copy_(heads[:, rotated:])


class _RotaryHeads(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        _table: torch.Tensor | None,
        rows: TableRows | None,
        angles: Angles,
        parts: tuple[int, ...],
        rotated: int,
        dtype: torch.dtype,
    ) -> tuple[torch.Tensor, ...]:
        ctx.rows, ctx.angles, ctx.rotated, ctx.dtype = None, angles, rotated, x.dtype
        if rows is not None:
            ctx.rows = rows.gradient, rows.index
        table, index = (rows.table.detach(), rows.index) if rows else (None, None)
        out = _heads(x, table, index, angles.cos, angles.sin, angles.positions, rotated, dtype)
        return out.split(parts, dim=1)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        angles = ctx.angles
        d_sums, *narrowed = _heads_backward(
            list(grads), angles.cos, angles.sin, angles.positions, ctx.rotated, ctx.dtype
        )
        if ctx.needs_input_grad[1]:
            gradient, index = ctx.rows
            gradient.so_far()[:, : d_sums.shape[1]].index_add_(0, index, d_sums)
        return (narrowed or [d_sums])[0], None, None, None, None, None, None


def rotary_heads(
    x: torch.Tensor,  # [N, n d]
    rows: TableRows | None,
    angles: Angles,
    parts: tuple[int, ...],
    rotated: int,
    dtype: torch.dtype,
) -> tuple[torch.Tensor, ...]:
    """x plus the first columns of the table's rows, as heads of type `dtype`, `rotated` of them
    rotated: [N, parts[0], d], [N, parts[1], d], …"""
    table = None if rows is None else rows.table
    return _RotaryHeads.apply(x, table, rows, angles, parts, rotated, dtype)


class _GatheredSum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, table: torch.Tensor, gradient: GradientSum, index: torch.Tensor
    ) -> torch.Tensor:
        ctx.gradient, ctx.index, ctx.dtype = gradient, index, x.dtype
        return table[:, : x.shape[1]].index_select(0, index).add_(x)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (dy,) = grads
        if ctx.needs_input_grad[1]:
            ctx.gradient.so_far()[:, : dy.shape[1]].index_add_(0, ctx.index, dy)
        return dy.to(ctx.dtype), None, None, None


def gathered_sum(x: torch.Tensor, rows: TableRows) -> torch.Tensor:
    """x [N, C'] plus the first C' columns of the table's rows, in the type of the table."""
    return _GatheredSum.apply(x, rows.table, rows.gradient, rows.index)
