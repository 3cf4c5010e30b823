"""Packs read from shards against packs built by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cases import pack_of
from models import LAYERS
from shards import STATES, TOKENS, chats, naive_states, open_target, token_shard, training_set
from transformers import AutoModelForCausalLM

from eagle3.errors import UserError
from eagle3.features.capture import capture
from eagle3.features.shards import write_feature_shard
from eagle3.objective.rows import step_rows
from eagle3.target.layers import aux_layers
from eagle3.training.loader import TrainingData, read_ahead


@pytest.fixture(scope="module")
def data(targets, tmp_path_factory):
    """Two captured shards, one of them with a document that nobody answers in."""
    folder = tmp_path_factory.mktemp("data")
    engine, head = open_target(targets["llama"])
    paths = []
    for number, documents in enumerate([[*chats(3), ([3, 4, 5], [0, 0, 0])], chats(4, seed=4)]):
        shard = token_shard(folder / f"tokens-{number}", documents)
        found = capture(engine, head, shard, "fp32", 1)
        write_feature_shard(folder / f"states-{number}", found, shard, STATES)
        paths.append((folder / f"tokens-{number}", folder / f"states-{number}"))
    return TrainingData(*map(list, zip(*paths, strict=True)), TOKENS.digest, STATES.digest)


def by_hand(targets, numbers):
    """The same documents run by transformers and packed by the objective's own test helper."""
    model = AutoModelForCausalLM.from_pretrained(targets["llama"], dtype=torch.float32).eval()
    _, head = open_target(targets["llama"])
    every, documents = [*chats(3), None, *chats(4, seed=4)], []
    for number in numbers:
        ids, mask = every[number]
        aux, last, _ = naive_states(model, ids, aux_layers(None, LAYERS))
        documents.append(
            {
                "ids": torch.as_tensor(ids),
                "mask": torch.as_tensor(mask).bool(),
                "aux": aux,
                "last": last,
            }
        )
    return pack_of(documents, head)


@pytest.mark.parametrize("numbers", [[0], [2, 5, 1], [7, 4, 0, 6]])
def test_a_pack_from_shards_equals_one_built_by_hand(targets, data, numbers):
    found, expected = data.pack(np.array(numbers)), by_hand(targets, numbers)
    for name in found.__dataclass_fields__:
        a, b = getattr(found, name), getattr(expected, name)
        assert a.dtype == b.dtype and a.shape == b.shape, name
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, msg=name)


def test_rows_known_before_any_forward_pass_are_those_of_the_objective(data):
    numbers = np.array([0, 1, 5, 6])
    pack = data.pack(numbers)
    plan = step_rows(
        pack.input_ids, pack.loss_mask, pack.documents, torch.ones(96, dtype=torch.bool), 1
    )
    assert data.rows([numbers]) == len(plan[0].tokens) == len(pack.last)
    assert data.documents.rows[3] == data.documents.lengths[3] == 0


def test_reading_ahead_keeps_the_order(data):
    packs = [np.array([n]) for n in (4, 0, 6)]
    read = list(read_ahead(data, packs, torch.device("cpu")))
    for pack, numbers in zip(read, packs, strict=True):
        assert torch.equal(pack.input_ids, data.pack(numbers).input_ids)
    assert list(read_ahead(data, [], torch.device("cpu"))) == []


def test_shards_that_do_not_belong_together_are_refused(targets, tmp_path):
    made = training_set(tmp_path, targets["llama"], documents=4)
    with pytest.raises(UserError, match="2 token shards but 1"):
        TrainingData(made.tokens, made.states[:1])
    with pytest.raises(UserError, match="captured from other tokens"):
        TrainingData(made.tokens, made.states[::-1])
    with pytest.raises(UserError, match="other settings"):
        TrainingData(made.tokens, made.states, TOKENS.digest, "0" * 16)
