"""The teacher in blocks against the whole product, one row at a time in float64."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eagle3.capture import teacher_rows
from eagle3.capture.teacher_rows import TeacherRows
from eagle3.parallel.ranks import Ranks
from eagle3.target_model.reader import Head

CPU = torch.device("cpu")
ALONE = Ranks(0, 1, CPU)
VOCAB, HIDDEN = 53, 12
RULES = {
    "plain": {},
    "bias": {"bias": True},
    "scale": {"scale": 0.25},
    "softcap": {"softcap": 5.0},
    "all": {"bias": True, "scale": 3.0, "softcap": 4.0},
}


def make_head(bias=False, scale=1.0, softcap=None, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(VOCAB, HIDDEN, generator=generator).to(dtype)
    offset = torch.randn(VOCAB, generator=generator).to(dtype) if bias else None
    return Head(weight, offset, scale, softcap)


def make_states(rows=21, dtype=torch.float32, seed=1):
    return torch.randn(rows, HIDDEN, generator=torch.Generator().manual_seed(seed)).to(dtype)


def whole_numbers(dtype):
    """A head and states whose products are exact in any order: equals stay equal."""
    generator = torch.Generator().manual_seed(3)
    weight = torch.randint(-3, 4, (VOCAB, HIDDEN), generator=generator).to(dtype)
    return Head(weight), torch.randint(-2, 3, (21, HIDDEN), generator=generator).to(dtype)


def naive(head, own, stored):
    """The definition: for each row the target's own choice, and every product in float64."""
    exact = head.to("cpu", torch.float64)
    argmax, lse = [], []
    for mine, kept in zip(own, stored, strict=True):
        logits = head.logits(mine[None])[0]
        argmax.append(min(i for i in range(len(logits)) if logits[i] == logits.max()))
        values = exact.logits(kept.double()[None])[0]
        lse.append(float(values.exp().sum().log()))
    return torch.tensor(argmax, dtype=torch.int32), torch.tensor(lse, dtype=torch.float64)


def check(found, expected):
    (argmax, lse), (ids, exact) = found, expected
    assert argmax.dtype == torch.int32 and lse.dtype == torch.float32
    assert torch.equal(argmax, ids)
    torch.testing.assert_close(lse.double(), exact, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("block_bytes", [1, 300, 2**20])
def test_blocks_of_any_size_give_the_whole_product(rules, dtype, block_bytes):
    head, own = make_head(**RULES[rules], dtype=dtype), make_states(dtype=dtype)
    rows = TeacherRows(head, dtype, ALONE, block_bytes)
    check(rows(own, own), naive(head, own, own))
    stored = (own.float() * 1.03).bfloat16()
    check(rows(own, stored), naive(head, own, stored))


@given(
    bound=st.integers(1, 4000), rows=st.integers(0, 9), rules=st.sampled_from([*RULES]),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_any_budget_and_any_number_of_rows(bound, rows, rules, seed):
    head, own = make_head(**RULES[rules], seed=seed), make_states(rows, seed=seed + 1)
    check(TeacherRows(head, torch.float32, ALONE, bound)(own, own), naive(head, own, own))


@pytest.mark.parametrize("block_bytes", [1, 300, 2**20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_lowest_id_wins_among_equals(block_bytes, dtype):
    head, own = whole_numbers(dtype)
    head.weight[:] = head.weight[torch.arange(VOCAB) % 7]  # every logit several times
    argmax, _ = TeacherRows(head, dtype, ALONE, block_bytes)(own, own)
    assert argmax.max() < 7
    assert torch.equal(argmax, naive(head, own, own)[0])


@pytest.mark.parametrize(
    "halves", [teacher_rows.HALF_PRECISION, ()], ids=["two products", "one, as on CUDA"]
)
def test_the_argmax_is_of_logits_in_the_targets_precision(monkeypatch, halves):
    """Two logits that differ in float32 and are equal in bfloat16: the lower id, as at the target
    itself; and the log-sum-exp is of the unrounded ones."""
    monkeypatch.setattr(teacher_rows, "HALF_PRECISION", halves)
    weight = torch.zeros(4, 2, dtype=torch.bfloat16)
    weight[1], weight[2] = torch.tensor([256.0, 0.0]), torch.tensor([256.0, 0.5])
    own = torch.ones(1, 2, dtype=torch.bfloat16)
    argmax, lse = TeacherRows(Head(weight), torch.bfloat16, ALONE)(own, own)
    assert argmax.tolist() == [1]
    assert lse.item() == pytest.approx(256.5 + torch.tensor(-0.5).exp().log1p().item(), abs=1e-4)


def test_no_probability_on_the_draft_vocabulary_exceeds_one():
    head, own = make_head(dtype=torch.bfloat16), make_states(400, torch.bfloat16)
    stored = (own.float() * 1.5).bfloat16()
    _, lse = TeacherRows(head, torch.bfloat16, ALONE, 500)(own, stored)
    logits = head.to("cpu", torch.float32).logits(stored.float())
    assert (logits - lse[:, None]).exp().sum(-1).max() <= 1 + 1e-5


def test_no_block_is_larger_than_the_budget(monkeypatch):
    seen = []
    finish = Head.finish
    monkeypatch.setattr(
        Head, "finish", lambda self, x: (seen.append(x.numel() * 4), finish(self, x))[1]
    )
    head, own = make_head(), make_states(200)
    TeacherRows(head, torch.float32, ALONE, 1000)(own, own)
    assert max(seen) <= 1000 and len(seen) > 1


@pytest.mark.parametrize("world", [2, 3, 60])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_slices_of_the_vocabulary_merge_to_the_whole(world, dtype):
    """Also with more ranks than tokens, where some hold nothing."""
    head, own = whole_numbers(dtype)
    head.weight[30:] = head.weight[:23]  # equals on different ranks
    sent = []
    for rank in range(world):  # what each rank sends
        one = SimpleNamespace(rank=rank, world=world, device=CPU)
        one.gather = lambda packed: sent.append(packed) or packed[None]
        TeacherRows(head, dtype, one, 700)(own, own)
    everyone = SimpleNamespace(rank=0, world=world, device=CPU, gather=lambda _: torch.stack(sent))
    check(TeacherRows(head, dtype, everyone, 700)(own, own), naive(head, own, own))


def test_the_head_is_converted_and_cut_once():
    head = make_head(dtype=torch.bfloat16)
    rows = TeacherRows(head, torch.bfloat16, Ranks(1, 2, CPU))
    assert len(rows.head.weight) == VOCAB - VOCAB // 2
    assert rows.head.weight.dtype == torch.bfloat16  # and no float32 copy of it is kept
