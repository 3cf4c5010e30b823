"""Scores inside a stage: those of the finished draft, and the same weights as without them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from eagle3.errors import UserError
from eagle3.evaluation.held_out import simulate
from eagle3.evaluation.inside_stage import HeldOutScorer
from eagle3.objective.losses import step_weights
from eagle3.objective.ttt import Objective, ttt_loss
from eagle3.parallel.ranks import Ranks
from eagle3.training.checkpoint import ResumeFolder, read_checkpoint
from eagle3.training.data import TrainingData
from eagle3.training.job import run_stage
from eagle3.training.setup import build_draft
from eagle3.training.stage import StageTrainer
from tests.builders.shards import (
    TRAIN,
    captured,
    changed,
    chats,
    schedule_of,
    token_shard,
    training_set,
)

CPU = torch.device("cpu")
ALONE = Ranks(0, 1, CPU)
DEPTH, STOP, EVERY = 4, {5, 11}, 3


@pytest.fixture(scope="module")
def made(targets, tmp_path_factory):
    return training_set(tmp_path_factory.mktemp("set"), targets["llama"], TRAIN)


@pytest.fixture(scope="module")
def held_out(targets, tmp_path_factory):
    folder = tmp_path_factory.mktemp("held-out")
    token_shard(folder / "tokens", chats(9, seed=7))
    captured(folder / "states", targets["llama"], folder / "tokens")
    return TrainingData([folder / "tokens"], [folder / "states"])


def train(made, held_out, folder, score=None, **keys):
    """Train a stage that scores itself every `score` steps; the trainer and its records."""
    settings = changed(made.train, score_every_steps=score, **keys)
    data = TrainingData(made.tokens, made.states)
    schedule = schedule_of([shard.tokens for shard in data.shards], settings)
    values = made.settings.values | {"train": vars(settings)}
    draft, target = build_draft(made.target, values, made.mapping, CPU)
    trainer = StageTrainer(draft, target, data, settings, schedule, 1, ALONE)
    if score:
        parts = held_out, target, settings, torch.float32, DEPTH, STOP, ALONE
        trainer.scorer = HeldOutScorer(*parts)
    resume = ResumeFolder(folder / "resume", made.settings, {})
    run_stage(trainer, resume, None, 10**6, folder / "metrics.jsonl", folder / "out")
    records = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
    return trainer, records, read_checkpoint(folder / "out")


@pytest.mark.parametrize("recipe", [{}, {"loss": "lk_hybrid", "feature_noise": 0.1}])
def test_the_weights_do_not_depend_on_scores(made, held_out, tmp_path, recipe):
    _, plain, one = train(made, held_out, tmp_path / "plain", **recipe)
    _, scored, other = train(made, held_out, tmp_path / "scored", EVERY, **recipe)
    assert one.state["global_step"] == other.state["global_step"] == len(scored)
    for tensors, others in ((one.model, other.model), (one.optimizer, other.optimizer)):
        assert set(tensors) == set(others)
        assert all(torch.equal(value, others[name]) for name, value in tensors.items())
    assert [r["loss"] for r in plain] == [r["loss"] for r in scored]
    at = [record["step"] for record in scored if "held_out_loss" in record]
    assert at == list(range(EVERY - 1, len(scored), EVERY)) and len(at) > 1
    assert not any("held_out_loss" in record for record in plain)
    if not recipe:
        losses = [scored[step]["held_out_loss"] for step in at]
        assert losses[-1] < losses[0]


def slow_loss(draft, target, data, settings):
    """Document by document, in float64, with dense attention."""
    objective = Objective(
        steps=settings.ttt_steps, loss=settings.loss, dtype=torch.float64, attention="reference"
    )
    sums, rows = torch.zeros(settings.ttt_steps, dtype=torch.float64), 0
    weights = torch.tensor(step_weights(settings.ttt_steps, settings.step_decay))
    for number in np.flatnonzero(data.documents.lengths):
        sums += ttt_loss(draft, data.pack(np.array([number])), target, objective)[1].loss
        rows += int(data.documents.rows[number])
    return float((weights * sums).sum() / rows)


def test_the_figures_are_those_of_the_draft_at_that_step(made, held_out, tmp_path):
    trainer, records, _ = train(made, held_out, tmp_path, 1)
    last = records[-1]
    packs = [held_out.pack(np.array([n])) for n in np.flatnonzero(held_out.documents.lengths)]
    parts = trainer.target, packs, torch.float32, DEPTH, STOP
    expected = simulate(trainer.draft, *parts)
    assert last["held_out_acceptance_length"] == expected["acceptance_length"]
    assert last["held_out_acceptance_at"] == expected["per_position_acceptance"]
    with torch.no_grad():
        slow = slow_loss(trainer.draft, trainer.target, held_out, trainer.train)
    assert last["held_out_loss"] == pytest.approx(slow, rel=1e-4)
    assert last["held_out_seconds"] > 0


@dataclass(frozen=True)
class Part(Ranks):
    """A rank that keeps what it would add to the others'."""

    added: list[torch.Tensor] = field(default_factory=list)

    def sum(self, tensor):
        self.added.append(tensor.clone())
        return tensor


def test_ranks_share_the_packs_and_their_sums_are_the_whole(made, held_out, tmp_path):
    trainer, _, _ = train(made, held_out, tmp_path)
    common = held_out, trainer.target, trainer.train, torch.float32, DEPTH, STOP

    def scored(rank, world):
        added = []
        scorer = HeldOutScorer(*common, Part(rank, world, CPU, added=added))
        scorer(trainer.draft)
        return scorer, added[0]

    whole, expected = scored(0, 1)
    world = len(whole.share) + 1  # one rank has nothing to do
    parts = [scored(rank, world) for rank in range(world)]
    shares = [tuple(pack.tolist()) for scorer, _ in parts for pack in scorer.share]
    assert sorted(shares) == sorted(tuple(pack.tolist()) for pack in whole.share)
    assert {scorer.rows for scorer, _ in parts} == {whole.rows}
    torch.testing.assert_close(sum(added for _, added in parts), expected)


def test_a_set_without_a_row_is_refused_before_the_first_step(made, targets, tmp_path):
    token_shard(tmp_path / "tokens", [([3, 4], [0, 0])])
    captured(tmp_path / "states", targets["llama"], tmp_path / "tokens")
    empty = TrainingData([tmp_path / "tokens"], [tmp_path / "states"])
    _, target = build_draft(made.target, made.settings.values, made.mapping, CPU)
    with pytest.raises(UserError, match=r"evaluation\.held_out_samples: no held-out conversation"):
        HeldOutScorer(empty, target, made.train, torch.float32, DEPTH, STOP, ALONE)
