"""The learning rate as a function of the step, and optimiser state by name."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu.step import LLAMA_8B
from benchmarks.synthetic import draft_config
from eagle3.config.train import Train
from eagle3.objective.flops import muon_shapes, orthogonalising_flops
from eagle3.parallel.ranks import Ranks
from eagle3.training.data_parallel import Replicated
from eagle3.training.muon import DealtMuon, dealt
from eagle3.training.optimizer import (
    build_optimizers,
    learning_rate,
    muon_ratio,
    optimizer_tensors,
    restore_optimizer,
    set_rate,
)
from tests.objective.cases import tiny_draft

ALONE = Ranks(0, 1, torch.device("cpu"))
SCHEDULES = ("cosine", "linear", "constant", "wsd")


@given(
    total=st.integers(1, 400),
    warmup_ratio=st.floats(0, 1),
    decay_ratio=st.floats(0, 1),
    schedule=st.sampled_from(SCHEDULES),
)
def test_the_rate_rises_to_its_peak_then_never_again(total, warmup_ratio, decay_ratio, schedule):
    train = Train(
        learning_rate=1.0,
        lr_schedule=schedule,
        warmup_ratio=warmup_ratio,
        lr_decay_ratio=decay_ratio,
    )
    rates = [learning_rate(step, total, train) for step in range(total)]
    warmup = math.ceil(warmup_ratio * total)
    assert all(0 < rate <= 1.0 + 1e-12 for rate in rates)
    assert rates[:warmup] == sorted(rates[:warmup])
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)
    # the last step of the warm-up and the first after it both run at the peak
    falling = math.ceil(decay_ratio * total) if schedule == "wsd" else 0
    for step in {max(warmup - 1, 0), min(warmup, total - 1)}:
        if step < warmup or step < total - falling - 1:
            assert rates[step] == pytest.approx(1.0)


def rate(step, schedule):
    train = Train(learning_rate=1.0, lr_schedule=schedule, warmup_ratio=0.1, lr_decay_ratio=0.2)
    return learning_rate(step, 100, train)


def test_known_points():
    assert rate(0, "linear") == pytest.approx(0.1)
    assert rate(55, "cosine") == pytest.approx(0.5)
    assert rate(55, "linear") == pytest.approx(0.5)
    assert rate(99, "constant") == 1.0
    assert [rate(step, "wsd") for step in (10, 79)] == [1.0, 1.0]
    # 20 steps of decay: the rate after the last one would be 0
    assert [rate(step, "wsd") * 21 for step in (80, 90, 99)] == pytest.approx([20, 10, 1])


def trained(draft, optimizers, steps, seed):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for parameter in draft.parameters():
            drawn = torch.randn(parameter.shape, generator=generator).to(parameter)
            parameter.grad = drawn if parameter.requires_grad else None
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = 1e-2
            optimizer.step()


MATRICES = ("fc.weight", "proj.weight")  # that muon takes


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_state_goes_by_name_and_comes_back_exactly(kind):
    first, second = tiny_draft().float(), tiny_draft(seed=9).float()
    for draft in (first, second):
        draft.lm_head.requires_grad_(False)
    frozen = first.lm_head.weight.clone()
    optimizers = build_optimizers(first, kind, 0.1, ALONE)
    trained(first, optimizers, 3, 0)
    state = {name: tensor.clone() for name, tensor in optimizer_tensors(first, optimizers)}
    expected = set()
    for name, parameter in first.named_parameters():
        by_muon = kind == "muon" and name.endswith(MATRICES)
        kept = ("momentum_buffer",) if by_muon else ("step", "exp_avg", "exp_avg_sq")
        expected |= {f"{key}.{name}" for key in kept if parameter.requires_grad}
    assert set(state) == expected

    second.load_state_dict(first.state_dict())
    others = build_optimizers(second, kind, 0.1, ALONE)
    restore_optimizer(second, others, state, Replicated(second, ALONE))
    trained(first, optimizers, 2, 1)
    trained(second, others, 2, 1)
    for name, value in first.state_dict().items():
        assert torch.equal(second.state_dict()[name], value), name
    assert torch.equal(first.lm_head.weight, frozen)


def test_muon_moves_matrices_by_the_same_amount_along_every_direction_and_as_far_as_adamw():
    draft = tiny_draft().float()
    before = {name: p.detach().clone() for name, p in draft.named_parameters()}
    trained(draft, build_optimizers(draft, "muon", 0.0, ALONE), 1, 0)
    for name, parameter in draft.named_parameters():
        change = (parameter.detach() - before[name]) / 1e-2
        if name.endswith(MATRICES):
            scale = 0.2 * max(change.shape) ** 0.5  # the update's rms is 0.2, about AdamW's
            # what is called orthogonal: five rounds of Newton-Schulz leave them between these
            values = torch.linalg.svdvals(change) / scale
            assert values.min() > 0.3 and values.max() < 1.3, name
        else:  # AdamW's first step is the gradient's sign
            torch.testing.assert_close(change.abs(), torch.ones_like(change), rtol=1e-3, atol=1e-3)


def test_muon_has_a_multiple_of_the_rate_and_adamw_the_rate_itself():
    assert muon_ratio(Train(optimizer="muon")) == 10.0
    assert muon_ratio(Train(learning_rate=1e-4, muon_learning_rate=3e-4)) == pytest.approx(3.0)
    draft = tiny_draft().float()
    adamw, muon = build_optimizers(draft, "muon", 0.0, ALONE, 10.0)
    for rate in (1e-4, 5e-5):  # what a schedule gives, and the optimisers do not add up
        set_rate([adamw, muon], rate)
        assert {group["lr"] for group in adamw.param_groups} == {rate}
        assert [group["lr"] for group in muon.param_groups] == pytest.approx([10 * rate])
    alone = build_optimizers(draft, "adamw", 0.0, ALONE, 10.0)
    set_rate(alone, 1e-4)
    assert {group["lr"] for group in alone[0].param_groups} == {1e-4}


def test_matrices_are_dealt_out_by_their_work():
    """Of the draft of an 8B target; no rank has much more than its share, or one matrix alone."""
    shapes = [*muon_shapes(draft_config(LLAMA_8B))]
    assert dealt(shapes, 1) == [0] * 8
    for ranks in (2, 4, 8):
        owners = dealt(shapes, ranks)
        assert set(owners) == set(range(ranks))
        work = [0.0] * ranks
        for shape, owner in zip(shapes, owners, strict=True):
            work[owner] += orthogonalising_flops(*shape)
        dearest = max(orthogonalising_flops(*shape) for shape in shapes)
        assert max(work) <= max(dearest, 1.25 * sum(work) / ranks)


def test_the_work_of_an_update_is_what_torch_multiplies():
    draft = tiny_draft().float()
    optimizers = build_optimizers(draft, "muon", 0.0, ALONE)
    for parameter in draft.parameters():
        parameter.grad = torch.ones_like(parameter)
    with FlopCounterMode(display=False) as counted:
        optimizers[1].step()
    shapes = muon_shapes(draft.config)
    assert sorted(shapes) == sorted(tuple(p.shape) for p in optimizers[1].owners)
    assert counted.get_total_flops() == sum(orthogonalising_flops(*shape) for shape in shapes)


def test_norms_take_no_weight_decay():
    draft = tiny_draft()
    (adamw,) = build_optimizers(draft, "adamw", 0.1, ALONE)
    decayed, plain = adamw.param_groups
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)
    assert {id(p) for p in plain["params"]} == {
        id(p) for name, p in draft.named_parameters() if "norm" in name
    }
    assert len(decayed["params"]) + len(plain["params"]) == len(list(draft.parameters()))


SHAPES = [(48, 96), (96, 48), (33, 33), (1, 20)]


def matrices(seed: int = 0) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(*shape, generator=generator)) for shape in SHAPES]


def stepped(muon, own) -> list[torch.Tensor]:
    """The matrices after three steps with drawn gradients, one of which is missing."""
    generator = torch.Generator().manual_seed(7)
    for step in range(3):
        for number, matrix in enumerate(own):
            drawn = torch.randn(matrix.shape, generator=generator).to(matrix)
            matrix.grad = None if (step, number) == (1, 2) else drawn
        muon.step()
    return [matrix.detach() for matrix in own]


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_in_bfloat16_muon_has_the_bits_of_torchs(decay):
    own, others = matrices(), matrices()
    options = {"lr": 0.02, "weight_decay": decay}
    ours = DealtMuon(own, ALONE, 1.0, torch.bfloat16, **options)
    theirs = torch.optim.Muon(others, adjust_lr_fn="match_rms_adamw", **options)
    for one, other in zip(stepped(ours, own), stepped(theirs, others), strict=True):
        assert torch.equal(one, other)


def test_in_float32_the_update_is_that_of_the_iteration_in_float64():
    options = {"lr": 0.02, "weight_decay": 0.1}
    own, wide = matrices(), [torch.nn.Parameter(m.detach().double()) for m in matrices()]
    ours = DealtMuon(own, ALONE, 1.0, torch.float32, **options)
    exact = DealtMuon(wide, ALONE, 1.0, torch.float64, **options)
    for one, other in zip(stepped(ours, own), stepped(exact, wide), strict=True):
        torch.testing.assert_close(one.double(), other, rtol=0, atol=1e-5)
