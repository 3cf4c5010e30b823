"""Operations compiled for CUDA against the same as written; Inductor compiles for a CPU here."""

from __future__ import annotations

import inspect
import shutil

import pytest
import torch

from eagle3.kernels import compiled, fused_ops
from eagle3.objective.losses import row_losses
from tests.objective.cases import random_logits


@pytest.fixture(scope="module")
def compiler():
    """A C++ compiler and Python's headers, which a machine need not have."""
    from torch._inductor.exc import InductorError

    if not shutil.which("g++"):
        pytest.skip("needs a C++ compiler")
    try:
        torch.compile(lambda x: x + 1)(torch.ones(3))
    except InductorError as fault:
        pytest.skip(f"the C++ compiler does not work: {str(fault)[:200]}")


def test_on_a_cpu_nothing_is_compiled(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda *_args, **_more: pytest.fail("compiled"))
    double = compiled.compiled_on_cuda(lambda name, x: x * 2)
    assert double("a", torch.ones(2)).tolist() == [2, 2]


@pytest.mark.parametrize("name", ["_norm_backward", "_rotated"])
def test_compiled_operations_give_the_same(compiler, name):
    written = inspect.unwrap(getattr(fused_ops, name))
    draw = torch.Generator().manual_seed(0)

    def normal(*size):
        return torch.randn(*size, generator=draw)

    inputs = {
        "_norm_backward": (normal(9, 8), normal(9, 8), normal(8), normal(9, 1)),
        "_rotated": (normal(9, 2, 8), normal(9, 1, 4), normal(9, 1, 4)),
    }[name]
    expected = written(*(t.clone() for t in inputs))
    result = torch.compile(written, dynamic=True)(*inputs)
    torch.testing.assert_close(result, expected)


def test_a_compiled_loss_gives_the_same(compiler):
    written = inspect.unwrap(row_losses)
    expected, result = (
        function("lk_hybrid", logits, probs, mix)
        for function in (written, torch.compile(written, dynamic=True))
        for logits, probs, _, mix in [random_logits(3)]
    )
    for name, tensor in vars(expected).items():
        torch.testing.assert_close(getattr(result, name), tensor, rtol=1e-12, atol=1e-13)
