"""Heads of attention from projections, against the same written out, and their gradients."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import gradcheck

from eagle3.draft.rope import angles, rotate
from eagle3.kernels.gradient_sum import shared
from eagle3.kernels.heads import Angles, TableRows, gathered_sum, rotary_heads

INVERSE, SCALING, POSITIONS = torch.tensor([1.0, 0.5, 0.1, 0.01]), 0.9, 7
PLACES = torch.tensor([4, 0, 0, 2])  # a row of the table that is looked up twice
AT = torch.tensor([0, 5, 6, 3])


def normal(*size, seed=0, dtype=torch.float64):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(*size, generator=draw, dtype=torch.float64).to(dtype).requires_grad_()


def of_all(at=AT):
    return Angles(*angles(torch.arange(POSITIONS), INVERSE, SCALING, torch.float64), at)


def plain(x, rows, parts, rotated):
    """The same in separate operations."""
    wide = (x if rows is None else rows + x).unflatten(1, (-1, 8))
    first = rotate(wide[:, :rotated], AT, INVERSE, SCALING)
    return torch.cat((first, wide[:, rotated:]), 1).split(parts, 1)


@pytest.mark.parametrize(
    ("parts", "rotated"), [((2, 1, 1), 3), ((2,), 2), ((1, 1), 1), ((2, 2), 0)]
)
def test_heads_are_sums_rotated(parts, rotated):
    x, table = normal(4, 8 * sum(parts)), normal(5, 40, seed=1)
    found = rotary_heads(
        x, TableRows(*shared(table), PLACES), of_all(), parts, rotated, torch.float64
    )
    wanted = plain(x, table[PLACES, : x.shape[1]], parts, rotated)
    downs = [normal(*part.shape, seed=2) for part in wanted]
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    of_found, of_wanted = (torch.autograd.grad(t, (x, table), downs) for t in (found, wanted))
    for one, other in zip(of_found, of_wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_without_a_table_the_projections_alone_are_rotated():
    x = normal(4, 24)
    (found,) = rotary_heads(x, None, of_all(), (3,), 3, torch.float64)
    (wanted,) = plain(x, None, (3,), 3)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    assert gradcheck(lambda x: rotary_heads(x, None, of_all(), (2, 1), 2, torch.float64), (x,))


def test_several_steps_add_to_one_gradient_of_the_table():
    table, (first, second) = normal(5, 24), [normal(4, 24, seed=s) for s in (1, 2)]
    rows = TableRows(*shared(table), PLACES)
    narrower = second[:, :16]

    def both(use):
        return use(first).square().sum() + use(narrower).cos().sum()

    (found,) = torch.autograd.grad(both(lambda x: gathered_sum(x, rows)), table)
    plainly = both(lambda x: table[PLACES, : x.shape[1]] + x)
    torch.testing.assert_close(found, torch.autograd.grad(plainly, table)[0])


def test_sums_and_angles_are_wide_whatever_the_type_of_the_products():
    x, table = normal(4, 24, dtype=torch.bfloat16), normal(5, 24, seed=1, dtype=torch.float32)
    wide = Angles(*(t.float() for t in (of_all().cos, of_all().sin)), AT)
    found = rotary_heads(x, TableRows(*shared(table), PLACES), wide, (2, 1), 2, torch.bfloat16)
    wanted = plain(x.float(), table[PLACES], (2, 1), 2)
    assert all(part.dtype == torch.bfloat16 for part in found)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one.float(), other, rtol=2**-8, atol=1e-6)  # rounded once
    of_x, of_table = torch.autograd.grad(found, (x, table), [torch.ones_like(p) for p in found])
    assert of_x.dtype == torch.bfloat16 and of_table.dtype == torch.float32


def test_what_is_rotated_is_kept_as_it_was():
    x = normal(4, 24).detach()
    before = x.clone()
    rotary_heads(x, None, of_all(), (3,), 2, torch.float64)
    assert torch.equal(x, before)
