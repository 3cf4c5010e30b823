"""The one pass over the vocabulary against autograd with all logits kept."""

from __future__ import annotations

import pytest
import torch

from eagle3.objective import head_loss as room
from eagle3.objective.head_loss import LossKind, Pairs, head_loss
from eagle3.objective.teacher import Teacher
from eagle3.target_model.reader import Head
from tests.objective.cases import DRAFT_VOCAB, HIDDEN, VOCAB

ROWS, STEPS = 23, 4


def random_case(seed, bias=False, softcap=None):
    draw = torch.Generator().manual_seed(seed)

    def normal(*size):
        return torch.randn(*size, generator=draw, dtype=torch.float64)

    whole = Head(normal(VOCAB, HIDDEN), normal(VOCAB) if bias else None, 0.7, softcap)
    chosen = torch.randperm(VOCAB, generator=draw)[:DRAFT_VOCAB].sort().values
    last = normal(ROWS, HIDDEN)
    logits = whole.logits(last)
    draft_ids = torch.full((VOCAB,), -1)
    draft_ids[chosen] = torch.arange(DRAFT_VOCAB)
    teacher = Teacher(last, logits.logsumexp(-1), draft_ids[logits.argmax(-1)], whole.rows(chosen))
    trained = (teacher.argmax >= 0).nonzero().flatten()
    rows = trained.repeat_interleave(torch.randint(0, STEPS + 1, (len(trained),), generator=draw))
    step = torch.randint(0, STEPS, (len(rows),), generator=draw)
    x = normal(len(rows), HIDDEN).requires_grad_()
    weight = normal(DRAFT_VOCAB, HIDDEN).requires_grad_()
    return whole, chosen, teacher, Pairs(rows, step), x, weight


def plain(whole, chosen, teacher, pairs, x, weight, weights):
    """All logits, the target's whole vocabulary, autograd."""
    full = whole.logits(teacher.last)[pairs.teacher].softmax(-1)  # [N, V]
    p = full[:, chosen] / full[:, chosen].sum(-1, keepdim=True)
    logits = x @ weight.T
    loss = -(p * logits.log_softmax(-1)).sum(-1)
    accepted = torch.minimum(full[:, chosen], logits.softmax(-1)).sum(-1)
    correct = chosen[logits.argmax(-1)] == full.argmax(-1)
    return (loss * weights[pairs.step]).sum(), loss, correct, accepted


@pytest.mark.parametrize("bias, softcap", [(False, None), (True, 5.0)])
@pytest.mark.parametrize("chunk", [1, 7, 1000])
@pytest.mark.parametrize("seed", range(3))
def test_chunks_give_what_autograd_over_all_logits_gives(monkeypatch, seed, chunk, bias, softcap):
    monkeypatch.setattr(room, "FEWEST_ROWS", chunk)
    monkeypatch.setitem(room.CHUNK_BYTES, "cpu", 0)
    whole, chosen, teacher, pairs, x, weight = random_case(seed, bias, softcap)
    weights = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
    expected, loss, correct, accepted = plain(whole, chosen, teacher, pairs, x, weight, weights)
    wanted = torch.autograd.grad(expected * 0.37, (x, weight))
    kind = LossKind("soft_ce", weights, torch.ones(STEPS))
    total, result = head_loss(x, weight, weight.detach(), pairs, teacher, kind)
    torch.testing.assert_close(total, expected, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(result.loss, loss.detach(), rtol=1e-10, atol=1e-11)
    torch.testing.assert_close(result.accepted, accepted.detach(), rtol=1e-10, atol=1e-11)
    assert torch.equal(result.correct, correct)
    for one, other in zip(torch.autograd.grad(total * 0.37, (x, weight)), wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-11)


def test_without_a_gradient_none_is_formed():
    _, _, teacher, pairs, x, weight = random_case(0)
    kind = LossKind("soft_ce", torch.full((STEPS,), 0.25), torch.ones(STEPS))
    with torch.no_grad():
        total, _ = head_loss(x, weight, weight.detach(), pairs, teacher, kind)
    assert not total.requires_grad
