"""Written-out backward passes against autograd's numerical check and PyTorch's own operations."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import gradcheck

from eagle3.draft.model import RMSNorm
from eagle3.kernels.fused_ops import rms_norm, swiglu

DRAW = torch.Generator().manual_seed(0)


def normal(*size, dtype=torch.float64):
    return torch.randn(*size, generator=DRAW, dtype=dtype).requires_grad_()


def test_gradients_are_those_of_small_differences():
    x, gain = normal(5, 6), normal(6)
    assert gradcheck(lambda x, gain: rms_norm(x, gain, 1e-5), (x, gain))
    assert gradcheck(swiglu, (x, normal(5, 6)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_are_those_of_the_plain_modules(dtype):
    x = normal(40, 16, dtype=dtype)
    norm = RMSNorm(16, 1e-5)
    with torch.no_grad():
        norm.weight.normal_(generator=DRAW)
    tolerance = (
        {"rtol": 1e-6, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 1e-2, "atol": 1e-2}
    )
    torch.testing.assert_close(rms_norm(x, norm.weight, 1e-5), norm(x), **tolerance)
    up = normal(40, 16, dtype=dtype)
    plain = torch.nn.functional.silu(x) * up
    torch.testing.assert_close(swiglu(x, up), plain, **tolerance)
