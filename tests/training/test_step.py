"""An optimiser step: accumulation is exact, for every loss, and time is split by phase."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from eagle3.objective.losses import LOSSES
from eagle3.objective.step_totals import StepTotals
from eagle3.objective.ttt import Objective, ttt_loss
from eagle3.parallel.ranks import Ranks
from eagle3.training.data_parallel import Replicated
from eagle3.training.optimizer import build_optimizers
from eagle3.training.speed import PHASES, Stopwatch, matrix_rate
from eagle3.training.step import StepRunner
from tests.objective.cases import pack_of, random_documents, target_parts, tiny_draft

CPU = torch.device("cpu")
ALONE = Ranks(0, 1, CPU)
MASKS = [[0, 0, 1, 1, 1, 1], [0, 1, 1, 0, 0, 1, 1, 1, 1], [1] * 12, [0, 0, 0, 1, 1], [0, 1]]


def case():
    generator = torch.Generator().manual_seed(3)
    documents = random_documents(generator, MASKS)
    head, target = target_parts(generator)
    return documents, head, target


def rows_of(packs):
    return sum(len(pack.last) for pack in packs)


def after_one_step(packs, target, objective, clip=1e9):
    """Weights after a step over these packs, and its result."""
    draft = tiny_draft()
    optimizers = build_optimizers(draft, "adamw", 0.0, ALONE)
    masters = Replicated(draft, ALONE)
    runner = StepRunner(draft, target, masters, optimizers, objective, clip, ALONE)
    result = runner.run(iter(packs), len(packs), rows_of(packs), 1e-3, stop=False)
    moments = {n: optimizers[0].state[p]["exp_avg"].clone() for n, p in draft.named_parameters()}
    return moments, result


@pytest.mark.parametrize("loss", LOSSES)
def test_any_number_of_packs_is_one_big_batch(loss):
    """Moments after the first step are the gradients, times a constant."""
    documents, head, target = case()
    objective = Objective(steps=4, dtype=torch.float64, loss=loss)
    one, result = after_one_step([pack_of(documents, head)], target, objective)
    for groups in ([documents[:2], documents[2:]], [[doc] for doc in documents]):
        packs = [pack_of(group, head) for group in groups]
        several, other = after_one_step(packs, target, objective)
        assert other.gradient_norm == pytest.approx(result.gradient_norm, rel=1e-10)
        for name, moment in one.items():
            torch.testing.assert_close(several[name], moment, rtol=1e-9, atol=1e-12)


def test_the_acceptance_that_weighs_a_loss_is_that_of_the_whole_batch():
    """Packs that differ in acceptance: each one's own would give another gradient."""
    documents, head, target = case()
    objective = Objective(steps=4, dtype=torch.float64, loss="lk_hybrid")
    packs = [pack_of(documents[:2], head), pack_of(documents[2:], head)]
    result, _ = after_one_step(packs, target, objective)
    draft, totals = tiny_draft(), StepTotals.zeros(4)
    each = [ttt_loss(draft, pack, target, objective)[1] for pack in packs]
    for one in each:
        totals.add(one)
    for acceptance, same in ((totals.mean_acceptance(), True), (each[0].mean_acceptance(), False)):
        draft.zero_grad()
        for pack in packs:
            (ttt_loss(draft, pack, target, objective, acceptance)[0] / rows_of(packs)).backward()
        for name, parameter in draft.named_parameters():
            expected = parameter.grad * 0.1  # 1 - beta_1
            assert torch.allclose(result[name], expected, rtol=1e-9, atol=1e-12) == same, name


def test_a_batch_without_a_row_to_train_gives_no_gradient():
    documents, head, target = case()
    nothing = replace(target, draft_ids=torch.full_like(target.draft_ids, -1))
    pack = pack_of(documents[:1], head)
    moments, result = after_one_step([pack], nothing, Objective(steps=3, dtype=torch.float64))
    assert result.gradient_norm == 0
    assert all(not moment.any() for moment in moments.values())


def test_clipping_bounds_the_gradient():
    documents, head, target = case()
    objective = Objective(steps=3, dtype=torch.float64)
    _, result = after_one_step([pack_of(documents, head)], target, objective)
    clip = result.gradient_norm / 4
    moments, clipped = after_one_step([pack_of(documents, head)], target, objective, clip)
    norm = torch.cat([moment.flatten() for moment in moments.values()]).norm() / 0.1
    assert clipped.gradient_norm == pytest.approx(result.gradient_norm)  # as it was before
    assert float(norm) == pytest.approx(clip, rel=1e-5)


def test_seconds_are_split_by_phase_without_a_gap():
    documents, head, target = case()
    objective = Objective(steps=3, dtype=torch.float64)
    _, result = after_one_step([pack_of(documents, head)] * 3, target, objective)
    assert set(result.seconds) == set(PHASES)
    assert all(result.seconds[phase] > 0 for phase in PHASES)
    watch = Stopwatch(CPU)
    watch.end("fetch")
    watch.end("forward")
    first, _, last = (mark for _, mark in watch.marks)
    assert sum(watch.seconds().values()) == pytest.approx(last - first)


def test_the_matrix_rate_is_measured_once():
    assert matrix_rate(CPU, torch.float32) == matrix_rate(CPU, torch.float32) > 1e8
