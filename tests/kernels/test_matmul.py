"""Matrix products with wide weight gradients, on both libraries of a CPU."""

from __future__ import annotations

import weakref

import pytest
import torch

from eagle3.kernels import matmul
from eagle3.kernels.gradient_sum import shared
from eagle3.kernels.matmul import as_factor, linear, times_transposed, weight_gradient


@pytest.mark.parametrize("onednn", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_product_is_a_linear_layer(monkeypatch, onednn, dtype):
    monkeypatch.setattr(matmul, "onednn_is_faster", lambda: onednn)
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(70, 24, generator=draw, dtype=dtype).requires_grad_()
    weight = torch.randn(40, 24, generator=draw, dtype=dtype).requires_grad_()
    dy = torch.randn(70, 40, generator=draw, dtype=dtype)
    expected = torch.autograd.grad(torch.nn.functional.linear(x, weight), (x, weight), dy)
    node, gradient = shared(weight)
    out = linear(x, node, weight.detach(), gradient)
    torch.testing.assert_close(out, torch.nn.functional.linear(x, weight), rtol=1e-5, atol=1e-5)
    for result, wanted in zip(torch.autograd.grad(out, (x, weight), dy), expected, strict=True):
        torch.testing.assert_close(result, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("onednn", [False, True])
def test_operands_may_be_strided(monkeypatch, onednn):
    monkeypatch.setattr(matmul, "onednn_is_faster", lambda: onednn)
    a, b = torch.randn(9, 30), torch.randn(30, 11)
    expected = a[:, ::2] @ b[::2]
    torch.testing.assert_close(times_transposed(a[:, ::2], b[::2].t()), expected)


@pytest.mark.parametrize("onednn", [False, True])
@pytest.mark.parametrize(("rows", "inner", "columns"), [(0, 3, 2), (2, 0, 3), (2, 3, 0)])
def test_operands_may_be_empty(monkeypatch, onednn, rows, inner, columns):
    """A rank without a row of a pack has a weight gradient of zeros."""
    monkeypatch.setattr(matmul, "onednn_is_faster", lambda: onednn)
    a, b = torch.randn(rows, inner), torch.randn(columns, inner)
    torch.testing.assert_close(times_transposed(a, b), a @ b.t())
    torch.testing.assert_close(weight_gradient(a.t(), b.t(), torch.float32), a @ b.t())


@pytest.mark.parametrize("emulated", [False, True])
def test_bfloat16_products_are_sums_in_float32_rounded_once(monkeypatch, emulated):
    monkeypatch.setattr(matmul, "bfloat16_is_emulated", lambda: emulated)
    a, b = torch.randn(70, 300).bfloat16(), torch.randn(40, 300).bfloat16()
    exact = a.double() @ b.double().t()
    result = times_transposed(a, b)
    assert result.dtype == torch.bfloat16
    ulp = 2.0 ** (exact.abs().log2().floor() - 7)
    assert ((result.double() - exact).abs() <= 0.5001 * ulp + 1e-4).all()
    gradient = weight_gradient(a.t(), b.t(), torch.float32)
    assert gradient.dtype == torch.float32
    # a library's own product rounds to bfloat16 first
    torch.testing.assert_close(
        gradient.double(), exact, rtol=1e-5 if emulated else 2**-8, atol=1e-4
    )


def test_only_bfloat16_on_a_cpu_that_emulates_it_is_widened(monkeypatch):
    monkeypatch.setattr(matmul, "bfloat16_is_emulated", lambda: True)
    wide, narrow = torch.ones(2), torch.ones(2).bfloat16()
    assert as_factor(wide) is wide and as_factor(narrow).dtype == torch.float32
    monkeypatch.setattr(matmul, "bfloat16_is_emulated", lambda: False)
    assert as_factor(narrow) is narrow


def several_uses(dtype: torch.dtype):
    """A weight, inputs and output gradients of whole products and of some of its rows."""
    draw = torch.Generator().manual_seed(0)

    def normal(*size):
        return torch.randn(*size, generator=draw, dtype=torch.float64).to(dtype)

    weight = normal(12, 8).requires_grad_()
    rows = [(0, 12), (0, 12), (3, 7), (7, 12)]
    inputs = [normal(n, 8).requires_grad_() for n in (5, 9, 4, 0)]
    outs = [normal(len(x), stop - first) for x, (first, stop) in zip(inputs, rows, strict=True)]
    return weight, list(zip(inputs, rows, outs, strict=True))


def test_a_gradient_summed_in_place_is_autograds_of_plain_products():
    weight, uses = several_uses(torch.float64)
    inputs, downs = [x for x, _, _ in uses], [down for _, _, down in uses]
    plain = [torch.nn.functional.linear(x, weight[slice(*rows)]) for x, rows, _ in uses]
    wanted = torch.autograd.grad(plain, (weight, *inputs), downs)
    (node, gradient), narrow = shared(weight), weight.detach()
    outs = [linear(x, node, narrow[slice(*rows)], gradient, rows[0]) for x, rows, _ in uses]
    for _ in range(2):  # the second sum begins from nothing
        found = torch.autograd.grad(outs, (weight, *inputs), downs, retain_graph=True)
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gradient_summed_in_place_has_the_bits_of_one_sum_after_another(dtype):
    weight, uses = several_uses(dtype)
    weight = weight.detach().float().requires_grad_()
    (node, gradient), narrow = shared(weight), weight.detach().to(dtype)
    outs = [linear(x, node, narrow[slice(*rows)], gradient, rows[0]) for x, rows, _ in uses]
    torch.autograd.backward(outs, [down for _, _, down in uses])
    total = torch.zeros(12, 8)
    for x, rows, down in reversed(uses):
        total[slice(*rows)] += weight_gradient(down, x.detach(), torch.float32)
    assert torch.equal(weight.grad, total)


def test_a_weight_that_is_used_otherwise_too_has_both_gradients():
    weight, ((x, _, down), *_) = several_uses(torch.float64)
    node, gradient = shared(weight)
    out = linear(x, node, weight.detach(), gradient)
    (wanted,) = torch.autograd.grad([torch.nn.functional.linear(x, weight)], weight, down)
    (found,) = torch.autograd.grad([out, node], weight, [down, torch.ones_like(weight)])
    torch.testing.assert_close(found, wanted + 1)
    (alone,) = torch.autograd.grad(shared(weight)[0].sum(), weight)
    assert torch.equal(alone, torch.ones_like(weight))


def test_a_frozen_weight_takes_no_gradient():
    weight, ((x, _, down), *_) = several_uses(torch.float64)
    node, gradient = shared(weight.detach())
    linear(x, node, weight.detach(), gradient).backward(down)
    assert gradient.pop() is None and weight.grad is None and x.grad is not None


def test_a_graph_that_is_dropped_leaves_nothing_behind():
    """The sum knows no part of the graph, which would keep both alive."""
    weight, uses = several_uses(torch.float64)
    node, gradient = shared(weight)
    left = weakref.ref(node)
    linear(uses[0][0], node, weight.detach(), gradient).sum().backward()
    del node, gradient
    assert left() is None


def test_gradients_of_several_uses_are_added_up_in_the_weights_own_type():
    """What plain autocast loses: seven small gradients beside a large one."""
    weight = torch.zeros(1, 1, requires_grad=True)
    narrow = weight.detach().bfloat16()
    large, small = torch.full((1, 1), 256.0), torch.full((1, 1), 0.5)
    node, gradient = shared(weight)
    outs = [linear(x.bfloat16(), node, narrow, gradient) for x in (large, *[small] * 7)]
    torch.cat(outs).sum().backward()
    assert weight.grad.item() == 256 + 7 * 0.5
    assert (large + 7 * small).bfloat16().item() != 256 + 7 * 0.5
