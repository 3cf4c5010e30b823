"""Every loss and its written-out gradient against autograd over the plain definition."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eagle3.objective.losses import LOSSES, row_losses, step_weights
from eagle3.objective.teacher import TeacherProbs
from tests.objective.cases import random_logits


def plain(kind, logits, own, mix):
    """The definitions, word by word."""
    q, log_q = logits.softmax(-1), logits.log_softmax(-1)
    p = own / own.sum(-1, keepdim=True)
    accepted = torch.minimum(own, q).sum(-1)
    cross_entropy = -(p * log_q).sum(-1)
    kl = (p * (p.log() - log_q)).sum(-1)
    losses = {
        "soft_ce": cross_entropy,
        "kl": kl,
        "reverse_kl": (q * (log_q - p.log())).sum(-1),
        "tv": 1 - accepted,
        "lk_alpha": -accepted.log(),
        "lk_hybrid": mix * kl + (1 - mix) * (1 - accepted),
    }
    return losses[kind], accepted


def loss_of(kind, logits, probs, mix):
    """Each row has a teacher row to itself, which are in another order."""
    order = torch.arange(len(logits)).flip(0)
    turned = TeacherProbs(*(tensor[order] for tensor in vars(probs).values()))
    return row_losses(kind, logits, turned, order, mix)


@pytest.mark.parametrize("kind", LOSSES)
@given(seed=st.integers(0, 10_000), scale=st.floats(0.1, 6))
def test_loss_and_gradient_are_those_of_autograd(kind, seed, scale):
    logits, probs, own, mix = random_logits(seed, scale)
    expected_from = logits.clone().requires_grad_()
    loss, accepted = plain(kind, expected_from, own, mix)
    loss.sum().backward()
    top = logits.max(-1).values.clone()
    result = loss_of(kind, logits, probs, mix)
    torch.testing.assert_close(result.loss, loss.detach(), rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(result.accepted, accepted.detach(), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(result.gradient, expected_from.grad, rtol=1e-8, atol=1e-10)
    assert torch.equal(result.top, top)


@given(seed=st.integers(0, 10_000))
def test_gradients_of_logits_sum_to_zero_and_vanish_where_draft_and_teacher_agree(seed):
    for kind in LOSSES:
        logits, probs, _, mix = random_logits(seed)
        assert loss_of(kind, logits, probs, mix).gradient.sum(-1).abs().max() < 1e-9
    for kind in ("soft_ce", "kl", "reverse_kl"):
        _, probs, own, mix = random_logits(seed)
        assert loss_of(kind, own.log(), probs, mix).gradient.abs().max() < 1e-9


def test_a_loss_without_acceptance_stays_finite():
    """A draft that is certain of what the target never says."""
    _, probs, _, mix = random_logits(0)
    probs.on_draft[:] = 0
    logits = torch.zeros(6, 11, dtype=torch.float64)
    logits[:, 0] = 900.0
    result = loss_of("lk_alpha", logits, probs, mix)
    assert result.loss.isfinite().all() and result.gradient.isfinite().all()


def test_step_weights_sum_to_one():
    assert sum(step_weights(7, 0.8)) == pytest.approx(1)
    assert step_weights(3, 0.5) == pytest.approx([4 / 7, 2 / 7, 1 / 7])
