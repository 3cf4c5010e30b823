"""What the benchmark compares has the same result: textbook, engine, each saving switched off."""

from __future__ import annotations

import pytest
import torch

from benchmarks import training
from benchmarks.savings import SAVINGS
from benchmarks.synthetic import Shape, build_draft, build_pack
from benchmarks.textbook import Textbook
from eagle3.objective.ttt import Objective, ttt_loss

TINY = Shape(16, 24, 4, 2, 8, 64, 40, 2, 48, steps=4)
CPU = torch.device("cpu")


def gradients(draft, loss):
    draft.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in draft.named_parameters()}


@pytest.mark.parametrize("supervised", [1.0, 0.64, 0.2])
@pytest.mark.parametrize("saving", ["nothing", *SAVINGS])
def test_every_variant_has_the_gradients_of_the_textbook(saving, supervised):
    draft = build_draft(TINY, CPU).double()
    pack, target, head = build_pack(TINY, supervised, CPU, torch.float64)
    objective = Objective(steps=TINY.steps, dtype=torch.float64)
    expected = Textbook(pack, target, head, TINY.steps).loss(draft, objective.decay)
    wanted = gradients(draft, expected)
    switched_off = SAVINGS.get(saving)
    if switched_off is None:
        loss, _ = ttt_loss(draft, pack, target, objective)
        result = gradients(draft, loss)
    else:
        with switched_off(pack, head):
            loss, _ = ttt_loss(draft, pack, target, objective)
            result = gradients(draft, loss)
    # heads and embeddings are float32 and bfloat16 here, as in training
    torch.testing.assert_close(loss.double(), expected.double(), rtol=1e-6, atol=1e-6)
    for name, gradient in wanted.items():
        torch.testing.assert_close(result[name], gradient, rtol=1e-5, atol=1e-6)


def test_filling_documents_up_changes_no_loss():
    lengths = [10, 48, 30, 25]
    losses = []
    for padded in (False, True):
        pack, target, _ = build_pack(TINY, 0.64, CPU, torch.float32, lengths, padded)
        loss, totals = ttt_loss(build_draft(TINY, CPU), pack, target, Objective(steps=4))
        losses.append((float(loss), totals.active.tolist()))
        assert len(pack.input_ids) == (4 * 48 if padded else sum(lengths))
    assert losses[0][1] == losses[1][1]
    assert losses[0][0] == pytest.approx(losses[1][0], rel=1e-6)


@pytest.mark.long
def test_a_case_reports_time_memory_and_arithmetic(monkeypatch):
    monkeypatch.setitem(training.SHAPES, "small", TINY)
    for variant in ("textbook", "engine", "recompute", "attention:flash", "padded"):
        result = training.measured("small", 0.64, "fp32", variant, repeat=1)
        assert result["seconds"] > 0 and result["flops"] > 0 and result["rate"] > 1e8
        assert result["megabytes"] >= 0
