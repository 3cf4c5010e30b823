"""Acceptance on held-out states: a slow twin, and on the target's text the counts of decoding."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eagle3.draft.model import Eagle3Draft, initialise
from eagle3.engines.hf import HFTarget
from eagle3.errors import UserError
from eagle3.evaluation.acceptance import rows_acceptance
from eagle3.evaluation.held_out import SupervisedRun, runs_of, simulate
from eagle3.objective.ttt import Objective, TargetParts
from eagle3.target_model.reader import Head
from eagle3.training.data import TrainingData
from tests.builders.models import VOCAB
from tests.builders.shards import (
    TRAIN,
    captured,
    changed,
    chats,
    open_target,
    token_shard,
    train_draft,
    training_set,
)
from tests.evaluation.chain import DraftChain, decode_plain, decode_speculative

NEW, DEPTH = 20, 4
STOP = {5, 11, 30}
PROMPTS = [np.random.default_rng(i).integers(3, VOCAB, 4 + i).tolist() for i in range(12)]


@dataclass
class World:
    """A target, drafts for it, and documents that the target has answered greedily itself."""

    engine: HFTarget
    head: Head
    drafts: dict[str, Eagle3Draft]
    parts: TargetParts
    target_ids: torch.Tensor
    own: TrainingData  # a document for each of `prompts`
    prompts: list[list[int]]
    other: TrainingData  # texts that are not the target's


@pytest.fixture(scope="module", params=["llama", "qwen3"])
def world(request, targets, tmp_path_factory):
    folder, target = tmp_path_factory.mktemp("world"), targets[request.param]
    engine, head = open_target(target)
    texts, prompts = [], []
    for prompt in PROMPTS:
        answer = decode_plain(engine, head, prompt, NEW, STOP).tokens
        if len(answer) > 1:
            texts.append((prompt + answer, [0] * len(prompt) + [1] * len(answer)))
            prompts.append(prompt)
    train = changed(
        TRAIN, epochs=30, epochs_per_stage=30, learning_rate=1e-2, max_grad_norm=5.0, ttt_steps=4
    )
    made = training_set(folder, target, train, texts=texts[: len(texts) // 2], draft_vocab=48)
    good, parts = train_draft(made, folder)
    poor = Eagle3Draft(good.config)
    initialise(poor, 17)

    def states(name, documents):
        tokens = folder / f"{name}.safetensors"
        token_shard(tokens, documents)
        captured(folder / f"{name}-states.safetensors", target, tokens)
        return TrainingData([tokens], [folder / f"{name}-states.safetensors"])

    return World(
        engine,
        head,
        {"good": good.eval(), "random": poor},
        parts,
        torch.from_numpy(made.mapping.target_ids),
        states("own", texts),
        prompts,
        states("other", chats(12, seed=5)),
    )


def pack_of(data):
    return data.pack(np.flatnonzero(data.documents.lengths))


@pytest.mark.parametrize(("quality", "depth"), [("good", 5), ("random", 2)])
def test_on_the_targets_own_text_the_walk_counts_what_decoding_counts(world, quality, depth):
    """Objective, positions and serving say the same: every prompt, every verify pass."""
    draft = world.drafts[quality]
    objective = Objective(steps=depth)
    documents = runs_of(draft, world.parts, pack_of(world.own), objective, STOP)
    assert len(documents) == len(world.prompts) > 6
    passes = 0
    for (run,), prompt in zip(documents, world.prompts, strict=True):
        assert run.agrees.all()  # greedy answers of the target itself
        chain = DraftChain(draft, world.parts.embedding, world.target_ids)
        decoded = decode_speculative(world.engine, world.head, chain, prompt, NEW, STOP, depth)
        walked = run.walk()
        if run.stopped:
            assert walked == decoded.committed
        else:  # cut at NEW tokens: passes that reach beyond are in neither
            assert walked == decoded.committed[: len(walked)]
            assert sum(decoded.committed[len(walked) :]) <= 2 * depth + 1
        passes += len(walked)
    assert passes > 20
    assert any(run.stopped for (run,) in documents) and not all(r.stopped for (r,) in documents)


def slow_counts(world, draft, data, depth):
    """Accepted and counted rows by depth, row by row with the decoder's own chain."""
    accepted, counted = [0] * depth, [0] * depth
    for number in np.flatnonzero(data.documents.lengths):
        pack = data.pack(np.array([number]))
        choice = dict(zip(pack.last_tokens.tolist(), pack.teacher_argmax.tolist(), strict=True))
        ids, mask = pack.input_ids, pack.loss_mask
        for t in range(len(ids) - 2):
            if not (mask[t + 1] and mask[t + 2]):
                continue
            chain = DraftChain(draft, world.parts.embedding, world.target_ids)
            proposed = chain.propose(chain.extend(pack.aux[: t + 1], ids[1 : t + 2]), depth)
            right = True
            for k in range(depth):
                if not bool(mask[t + 1 : t + 3 + k].all()) or t + 2 + k >= len(ids):
                    break
                right &= proposed[k] == choice[t + 1 + k]
                counted[k] += 1
                accepted[k] += right
                if int(ids[t + 2 + k]) != choice[t + 1 + k]:
                    break
    return accepted, counted


@torch.no_grad()
@pytest.mark.parametrize("text", ["own", "other"])
@pytest.mark.parametrize("quality", ["good", "random"])
def test_all_rows_at_once_equal_one_chain_after_another(world, quality, text):
    draft, data = world.drafts[quality], getattr(world, text)
    documents = runs_of(draft, world.parts, pack_of(data), Objective(steps=DEPTH), STOP)
    totals = np.sum([run.counts() for runs in documents for run in runs], axis=0)
    accepted, counted = slow_counts(world, draft, data, DEPTH)
    assert totals.tolist() == [accepted, counted]
    assert counted[0] > 60 and (text == "own" or counted[1] < counted[0])


def test_figures_do_not_depend_on_how_documents_are_packed(world):
    draft, data = world.drafts["good"], world.own
    numbers = np.flatnonzero(data.documents.lengths)
    whole = simulate(draft, world.parts, [pack_of(data)], torch.float32, DEPTH, STOP)
    packs = [data.pack(part) for part in np.split(numbers, [3, 4, 9])]
    assert simulate(draft, world.parts, packs, torch.float32, DEPTH, STOP) == whole
    assert whole["documents"] == len(world.prompts) and whole["text_agreement"] == 1.0
    assert whole["rows"] == whole["rows_at"][0] == int(data.documents.rows.sum())
    share = whole["per_position_acceptance"]
    assert whole["acceptance_length"] == pytest.approx(1 + sum(share)) and share[0] > 0.3
    low, high = whole["acceptance_length_ci95"]
    assert 1 <= low < whole["acceptance_length"] < high <= 1 + DEPTH
    walk = whole["walk"]
    assert walk["acceptance_length"] == pytest.approx(1 + sum(walk["per_position_acceptance"]))


def test_a_set_without_a_row_is_refused(world):
    with pytest.raises(UserError, match=r"evaluation\.held_out_samples: no held-out conversation"):
        simulate(world.drafts["good"], world.parts, [], torch.float32, DEPTH, STOP)


def run_of(right, agrees, stopped=True):
    return SupervisedRun(np.array(right, dtype=bool), np.array(agrees, dtype=bool), stopped)


YES, NO = [1, 1, 1], [0, 0, 0]


@pytest.mark.parametrize(
    ("run", "committed"),
    [
        # a miss commits the target's own token, and the stop token is nobody's draft
        (run_of([NO, NO, NO], [1, 1, 1]), [1, 1, 1]),
        (run_of([YES, YES, YES], [1, 1, 1]), [3]),
        (run_of([YES] * 5, [1] * 5), [4, 1]),
        (run_of([[1, 0, 1]] * 5, [1] * 5), [2, 2, 1]),
        # cut by the end of the document: out of both sides, whatever the draft
        (run_of([YES] * 5, [1] * 5, stopped=False), [4]),
        (run_of([NO] * 5, [1] * 5, stopped=False), [1, 1, 1]),
        # the text leaves the target's choices at place 1: passes that would look beyond are out
        (run_of([YES] * 5, [1, 0, 1, 1, 1]), [3]),
        (run_of([NO] * 5, [1, 0, 1, 1, 1]), [1, 1, 1]),
        (run_of([YES] * 4, [1, 1, 0, 1], stopped=False), [4]),
    ],
)
def test_the_walk_on_known_runs(run, committed):
    assert run.walk() == committed


RUNS = st.integers(1, 12).flatmap(
    lambda size: st.tuples(
        st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=size, max_size=size),
        st.lists(st.booleans(), min_size=size, max_size=size),
        st.booleans(),
    )
)


@given(RUNS)
def test_counts_are_bounded_and_a_row_counts_whatever_the_draft(drawn):
    _, agrees, stopped = drawn
    accepted, counted = run_of(*drawn).counts()
    assert (accepted <= counted).all() and counted[0] == len(agrees)
    assert (np.diff(counted) <= 0).all() and (np.diff(accepted) <= 0).all()
    for other in (YES, NO):
        result, same = run_of([other] * len(agrees), agrees, stopped).counts()
        assert same.tolist() == counted.tolist()
        assert result.tolist() == (counted.tolist() if other == YES else [0, 0, 0])


def test_intervals_shrink_to_a_point_where_all_documents_are_alike():
    result = rows_acceptance(np.array([[2, 1]] * 5), np.array([[4, 3]] * 5))
    assert result["per_position_acceptance"] == pytest.approx([1 / 2, 1 / 3])
    assert result["acceptance_length_ci95"] == pytest.approx([11 / 6, 11 / 6])
    assert (result["rows"], result["rows_at"]) == (20, [20, 15])
