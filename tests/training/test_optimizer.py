"""The learning rate as a function of the step, and optimiser state by name."""

from __future__ import annotations

import math

import pytest
import torch
from cases import tiny_draft
from hypothesis import given
from hypothesis import strategies as st

from eagle3.ranks import Ranks
from eagle3.training.masters import Replicated
from eagle3.training.optimizer import (
    RateSettings,
    build_optimizer,
    learning_rate,
    optimizer_tensors,
    restore_optimizer,
)

SCHEDULES = ("cosine", "linear", "constant", "wsd")


@given(
    total=st.integers(1, 400),
    warmup_ratio=st.floats(0, 1),
    decay_ratio=st.floats(0, 1),
    schedule=st.sampled_from(SCHEDULES),
)
def test_the_rate_rises_to_its_peak_then_never_again(total, warmup_ratio, decay_ratio, schedule):
    settings = RateSettings(2.0, schedule, warmup_ratio, decay_ratio)
    rates = [learning_rate(step, total, settings) for step in range(total)]
    warmup = math.ceil(warmup_ratio * total)
    assert all(0 < rate <= 2.0 + 1e-12 for rate in rates)
    assert rates[:warmup] == sorted(rates[:warmup])
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)
    # the last step of the warm-up and the first after it both run at the peak
    falling = math.ceil(decay_ratio * total) if schedule == "wsd" else 0
    for step in {max(warmup - 1, 0), min(warmup, total - 1)}:
        if step < warmup or step < total - falling - 1:
            assert rates[step] == pytest.approx(2.0)


def rate(step, schedule):
    return learning_rate(step, 100, RateSettings(1.0, schedule, 0.1, 0.2))


def test_known_points():
    assert rate(0, "linear") == pytest.approx(0.1)
    assert rate(55, "cosine") == pytest.approx(0.5)
    assert rate(55, "linear") == pytest.approx(0.5)
    assert rate(99, "constant") == 1.0
    assert [rate(step, "wsd") for step in (10, 79)] == [1.0, 1.0]
    # 20 steps of decay: the rate after the last one would be 0
    assert [rate(step, "wsd") * 21 for step in (80, 90, 99)] == pytest.approx([20, 10, 1])


def trained(draft, optimizer, steps, seed):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for parameter in draft.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter)
        for group in optimizer.param_groups:
            group["lr"] = 1e-2
        optimizer.step()


def test_state_goes_by_name_and_comes_back_exactly():
    first = tiny_draft().float()
    optimizer = build_optimizer(first, 0.1)
    trained(first, optimizer, 3, 0)
    state = {name: tensor.clone() for name, tensor in optimizer_tensors(first, optimizer)}
    names = [name for name, _ in first.named_parameters()]
    assert set(state) == {f"{k}.{n}" for k in ("step", "exp_avg", "exp_avg_sq") for n in names}

    second = tiny_draft(seed=9).float()
    second.load_state_dict(first.state_dict())
    other = build_optimizer(second, 0.1)
    restore_optimizer(second, other, state, Replicated(second, Ranks(0, 1, torch.device("cpu"))))
    trained(first, optimizer, 2, 1)
    trained(second, other, 2, 1)
    for name, value in first.state_dict().items():
        assert torch.equal(second.state_dict()[name], value), name


def test_norms_take_no_weight_decay():
    draft = tiny_draft()
    decayed, plain = build_optimizer(draft, 0.1).param_groups
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)
    assert {id(p) for p in plain["params"]} == {
        id(p) for name, p in draft.named_parameters() if "norm" in name
    }
    assert len(decayed["params"]) + len(plain["params"]) == len(list(draft.parameters()))
