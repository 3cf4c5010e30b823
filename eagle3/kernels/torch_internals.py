"""All private parts of PyTorch that this project calls, to be checked here for a new version.

`tests/kernels/test_torch_internals.py` compares each with plain public code, and checks that no
other file calls one. They exist in torch 2.13 and 2.14.

    flash_attention, ..._backward      torch.ops.aten: kernels that return a log-sum-exp and take
                                       one back; the public call does neither on its own
    onednn_linear                      torch.ops.mkldnn: oneDNN's float32 product on a CPU
    silu_backward                      torch.ops.aten: one pass instead of four
    multiplies_bfloat16                torch.cpu: what the processor has instructions for
    all_to_all                         torch.distributed._functional_collectives, which the
                                       deprecated public torch.distributed.nn points to
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch.distributed import _functional_collectives as collectives


def cuda_flash_attention(
    q: torch.Tensor,  # [S, heads, d]
    k: torch.Tensor,  # [S, kv_heads, d]
    v: torch.Tensor,
    bounds: torch.Tensor,  # int32 [D + 1], where documents begin
    longest: int,
) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, ...]]:
    """Causal attention inside each document on CUDA: output [S, heads, d], log-sum-exp
    [heads, S], and the state that the backward pass takes back."""
    out, lse, *state, _ = torch.ops.aten._flash_attention_forward(
        q, k, v, bounds, bounds, longest, longest, 0.0, True, False
    )
    return out, lse, tuple(state)


def cuda_flash_attention_backward(
    dout: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,  # [heads, S]
    bounds: torch.Tensor,
    longest: int,
    state: tuple[torch.Tensor, ...],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of q, k and v."""
    dq, dk, dv = torch.ops.aten._flash_attention_backward(
        dout, q, k, v, out, lse, bounds, bounds, longest, longest, 0.0, True, *state
    )
    return dq, dk, dv


def cpu_flash_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Causal attention [1, heads, S, d] on a CPU: output, and log-sum-exp [1, heads, S]."""
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, True)
    return out, lse


def cpu_flash_attention_backward(
    dout: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of q, k and v."""
    dq, dk, dv = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
        dout, q, k, v, out, lse, 0.0, True
    )
    return dq, dk, dv


def onednn_linear(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a [M, K] times the transpose of b [N, K], contiguous, not empty, on a CPU."""
    out: torch.Tensor = torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")
    return out


def onednn_multiplies_bfloat16() -> bool:
    """Whether `onednn_linear` takes bfloat16 here."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def multiplies_bfloat16() -> bool:
    """Whether an x86 processor has instructions for products of bfloat16."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def silu_backward(dy: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """dy times the derivative of silu at x."""
    out: torch.Tensor = torch.ops.aten.silu_backward(dy, x)
    return out


def all_to_all(
    rows: torch.Tensor,
    sent: Sequence[int],
    received: Sequence[int],
    group: dist.ProcessGroup,
) -> torch.Tensor:
    """rows [sum(sent), ...], those for rank 0 of the group first -> [sum(received), ...].
    Differentiable; all ranks of the group must call it, and its backward pass, in one order."""
    out = collectives.all_to_all_single(rows.contiguous(), list(received), list(sent), group)
    return collectives.wait_tensor(out)
