"""Written-out backward passes against autograd's numerical check and PyTorch's own operations."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import gradcheck

from eagle3.draft.model import RMSNorm
from eagle3.draft.rope import angles, rotate
from eagle3.kernels.fused_ops import gathered_sum, rms_norm, rotation, swiglu

DRAW = torch.Generator().manual_seed(0)


def normal(*size, dtype=torch.float64):
    return torch.randn(*size, generator=DRAW, dtype=dtype).requires_grad_()


def test_gradients_are_those_of_small_differences():
    x, gain, more = normal(5, 6), normal(6), normal(3, 6)
    assert gradcheck(lambda x, gain: rms_norm(x, gain, 1e-5), (x, gain))
    assert gradcheck(swiglu, (x, normal(5, 6)))
    index = torch.tensor([4, 0, 0])  # a row that is picked up twice
    assert gradcheck(lambda x, more: gathered_sum(x, index, more), (x, more))
    cos, sin = angles(torch.tensor([0, 3, 7]), torch.tensor([1.0, 0.3]), 1.2, torch.float64)
    assert gradcheck(lambda x: rotation(x, cos, sin), (normal(3, 2, 4),))


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
    heads, positions = normal(6, 2, 8), torch.tensor([0, 1, 5, 9, 2, 100])
    inv_freq = torch.tensor([1.0, 0.5, 0.1, 0.01])
    cos, sin = angles(positions, inv_freq, 0.9, torch.float64)
    torch.testing.assert_close(
        rotation(heads, cos, sin), rotate(heads, positions, inv_freq, 0.9), rtol=1e-12, atol=1e-12
    )


def test_a_rotation_keeps_its_input():
    x = normal(3, 2, 4).detach()
    before = x.clone()
    cos, sin = angles(torch.arange(3), torch.tensor([1.0, 0.3]), 1.0, torch.float64)
    rotation(x, cos, sin)
    assert torch.equal(x, before)
