"""Rows filled up: the first ones are as they were, and attention never sees the others."""

from __future__ import annotations

import pytest
import torch

from eagle3.objective import bucketing
from eagle3.objective.attention.interface import PackAttention, reference_attention
from eagle3.objective.bucketing import FEW, FEW_MULTIPLE, MULTIPLE, fill_up, in_buckets
from eagle3.objective.row_index import Prefixes, whole_index
from eagle3.objective.rows import step_rows
from tests.objective.cases import VOCAB, pack_of, random_documents, target_parts

STEPS = 4


@pytest.mark.parametrize("count", [0, 1, FEW_MULTIPLE, FEW - 1, FEW, FEW + 1, 3 * MULTIPLE + FEW])
def test_the_last_row_is_repeated_up_to_a_multiple(count):
    rows = torch.arange(count) + 7
    filled = fill_up(rows)
    multiple = MULTIPLE if count > FEW else FEW_MULTIPLE
    assert len(filled) % multiple == 0 and len(filled) - count < multiple
    assert torch.equal(filled[:count], rows)
    assert (filled[count:] == rows[-1:]).all()


def test_an_index_that_is_filled_up_does_the_same_work(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    head, _ = target_parts(generator)
    pack = pack_of(random_documents(generator, [[0, 0, *[1] * 9], [0, 1, 1, 1]]), head)
    known = torch.ones(VOCAB, dtype=torch.bool)
    active = step_rows(pack.input_ids, pack.loss_mask, pack.documents, known, STEPS)
    prefixes = Prefixes.of(pack, active)
    plain = whole_index(pack, active, prefixes)
    attention = PackAttention(reference_attention, prefixes.queries(active.slots))
    filled, without_copies = in_buckets(plain, attention)
    assert torch.equal(filled.taught[: len(plain.taught)], plain.taught)

    def normal(*size):
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    k0, v0 = normal(len(plain.ids), 2, 4), normal(len(plain.ids), 2, 4)
    keys, keys_filled = attention.keys(k0, v0), without_copies.keys(k0, v0)
    for k, (step, longer) in enumerate(zip(plain.steps, filled.steps, strict=True)):
        count, size = len(step.rows), len(longer.rows)
        assert size % FEW_MULTIPLE == 0 and size > count
        for name, tensor in vars(step).items():
            assert torch.equal(getattr(longer, name)[:count], tensor), name
        q, own_k, own_v = normal(size, 4, 4), normal(size, 2, 4), normal(size, 2, 4)
        own, own_filled = None, None
        if k > 0:
            own, own_filled = (own_k[:count], own_v[:count]), (own_k, own_v)
        expected, keys = attention.attend(k, q[:count], own, keys)
        result, keys_filled = without_copies.attend(k, q, own_filled, keys_filled)
        assert torch.equal(result[:count], expected) and not result[count:].any()

    monkeypatch.setattr(bucketing, "FEW_MULTIPLE", 1)
    same, _ = in_buckets(plain, attention)
    assert all(
        torch.equal(getattr(one, name), getattr(other, name))
        for one, other in zip(same.steps, plain.steps, strict=True)
        for name in vars(other)
    )
