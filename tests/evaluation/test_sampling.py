"""Speculative sampling keeps the target's distribution, whatever the draft proposes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eagle3.evaluation.sampling import draw, verify, verify_greedy

V, IDS, COUNT, RUNS = 7, torch.tensor([0, 2, 3, 6]), 3, 200_000


def distributions(seed, sharpness):
    """A target's p [COUNT + 1, V] and a draft's q [COUNT, V_draft]; one token has no weight."""
    generator = torch.Generator().manual_seed(seed)
    p = (sharpness * torch.randn(COUNT + 1, V, generator=generator)).softmax(-1)
    q = (sharpness * torch.randn(COUNT, len(IDS), generator=generator)).softmax(-1)
    p[1, IDS[q[1].argmin()]] = 0.0
    return p / p.sum(-1, keepdim=True), q


def proposed(q, proposals, uniform):
    """Drafts int64 [N, COUNT] and what `verify` is told of their distribution."""
    if proposals == "argmax":
        return IDS[q.argmax(-1)].expand(len(uniform), -1), None
    choice = torch.stack([draw(q[k].expand(len(uniform), -1), uniform[:, k]) for k in range(COUNT)])
    return IDS[choice.T], q.expand(len(uniform), -1, -1)


@pytest.mark.parametrize("sharpness", [0.3, 1.0])
@pytest.mark.parametrize("proposals", ["argmax", "sampled"])
def test_every_place_of_a_chain_has_the_targets_distribution(proposals, sharpness):
    """Of sequences that reach a place, the token there is distributed as p, by chi-square."""
    p, q = distributions(3, sharpness)
    generator = torch.Generator().manual_seed(5)
    uniform = torch.rand(RUNS, 2 * COUNT + 1, generator=generator, dtype=torch.float64)
    drafts, told = proposed(q, proposals, uniform[:, :COUNT])
    rest = uniform[:, COUNT:]
    accepted, own = verify(p.expand(RUNS, -1, -1), drafts, told, IDS, rest)
    said = torch.cat((drafts, own[:, None]), 1)
    said.scatter_(1, accepted[:, None], own[:, None])
    for place in range(COUNT + 1):
        here = accepted >= place
        total = int(here.sum())
        counts = torch.bincount(said[here, place], minlength=V).double()
        expected = p[place].double() * total
        assert counts[expected == 0].sum() == 0
        possible = expected > 0
        chi = ((counts - expected)[possible] ** 2 / expected[possible]).sum()
        freedom = int(possible.sum()) - 1
        assert total > 200 and chi < freedom + 4 * (2 * freedom) ** 0.5
    # and as often as the theory says: sum min(p, q)
    full = torch.zeros(V)
    full[IDS] = q[0] if told is not None else torch.nn.functional.one_hot(q[0].argmax(), 4).float()
    wanted = float(torch.minimum(p[0], full).sum())
    assert float((accepted >= 1).double().mean()) == pytest.approx(wanted, abs=0.005)


def test_equal_distributions_are_always_accepted():
    p = torch.zeros(COUNT + 1, V)
    q = torch.tensor([0.1, 0.2, 0.3, 0.4]).expand(COUNT, -1)
    p[:, IDS] = q[0]
    uniform = torch.rand(1000, 2 * COUNT + 1, dtype=torch.float64)
    drafts, told = proposed(q, "sampled", uniform[:, :COUNT])
    accepted, _ = verify(p.expand(1000, -1, -1), drafts, told, IDS, uniform[:, COUNT:])
    assert (accepted == COUNT).all()


@settings(max_examples=60)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=9).filter(lambda p: sum(p) > 1e-3),
       st.floats(0, 1, exclude_max=True))  # fmt: skip
def test_a_token_is_drawn_by_where_the_number_falls(weights, number):
    p = torch.tensor([weights], dtype=torch.float64)
    token = int(draw(p, torch.tensor([number], dtype=torch.float64)))
    assert weights[token] > 0
    before = sum(weights[:token]) / sum(weights)
    assert before - 1e-9 <= number <= before + weights[token] / sum(weights) + 1e-9


def test_greedy_keeps_the_longest_prefix_of_the_targets_choices():
    choices = torch.tensor([[1, 2, 3], [1, 2, 3], [1, 2, 3]])
    drafts = torch.tensor([[1, 2], [1, 9], [9, 2]])
    accepted, own = verify_greedy(choices, drafts)
    assert (accepted.tolist(), own.tolist()) == ([2, 1, 0], [3, 2, 1])
    nothing, own = verify_greedy(choices[:, :1], drafts[:, :0])
    assert (nothing.tolist(), own.tolist()) == ([0, 0, 0], [1, 1, 1])
