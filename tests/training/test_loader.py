"""Packs read from shards against packs built by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from benchmarks.synthetic import shard_of
from eagle3.errors import UserError
from eagle3.objective.rows import step_rows
from eagle3.objective.sequence_parallel.sharding import SequenceSharding
from eagle3.parallel.ranks import Group, Ranks
from eagle3.target_model.layers import aux_layers
from eagle3.training.data import TrainingData
from eagle3.training.loader import read_ahead
from tests.builders.models import LAYERS
from tests.builders.shards import (
    STATES,
    TOKENS,
    captured,
    chats,
    naive_states,
    open_target,
    state_settings,
    token_shard,
    training_set,
)
from tests.objective.cases import pack_of


@pytest.fixture(scope="module")
def data(targets, tmp_path_factory):
    """Two captured shards, one of them with a document that nobody answers in."""
    folder = tmp_path_factory.mktemp("data")
    paths = []
    for number, documents in enumerate([[*chats(3), ([3, 4, 5], [0, 0, 0])], chats(4, seed=4)]):
        paths.append((folder / f"tokens-{number}", folder / f"states-{number}"))
        token_shard(paths[-1][0], documents)
        captured(paths[-1][1], targets["llama"], paths[-1][0], batch_tokens=1)
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
    result, expected = data.pack(np.array(numbers)), by_hand(targets, numbers)
    for name in result.tensors():
        a, b = getattr(result, name), getattr(expected, name)
        assert a.dtype == b.dtype and a.shape == b.shape, name
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("codec", ["bf16_zstd", "fp8_e4m3", "fp8_e4m3_zstd", "int8", "nf4"])
def test_a_pack_of_several_shards_holds_what_each_document_alone_decodes_to(
    targets, tmp_path, codec
):
    settings, paths = state_settings(codec), []
    for number in range(2):
        paths.append((tmp_path / f"tokens-{number}", tmp_path / f"states-{number}"))
        token_shard(paths[-1][0], chats(3, seed=number))
        captured(paths[-1][1], targets["llama"], paths[-1][0], settings)
    data = TrainingData(*map(list, zip(*paths, strict=True)), TOKENS.digest, settings.digest)
    pack = data.pack(np.array([4, 0, 3, 1]))
    alone = [data.shards[n // 3].read(n % 3) for n in (4, 0, 3, 1)]
    for name in ("aux", "last", "teacher_argmax", "teacher_lse"):
        expected = torch.cat([document[name] for document in alone])
        assert torch.equal(getattr(pack, name), expected.to(getattr(pack, name).dtype)), name


def test_rows_known_before_any_forward_pass_are_those_of_the_objective(data):
    numbers = np.array([0, 1, 5, 6])
    pack = data.pack(numbers)
    plan = step_rows(
        pack.input_ids, pack.loss_mask, pack.documents, torch.ones(96, dtype=torch.bool), 1
    )
    assert data.rows([numbers]) == len(plan.tokens) == len(pack.last)
    assert data.documents.rows[3] == data.documents.lengths[3] == 0


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("numbers", [[0, 1, 5, 6], [4], [3]])
def test_a_rank_reads_its_shard_of_a_pack_and_nothing_else(data, size, numbers):
    whole = data.pack(np.array(numbers))
    for index in range(size):
        ranks = Ranks(index, size, torch.device("cpu"), sequence=Group(index, size))
        sharding = SequenceSharding(ranks, 3)
        result, expected = data.pack(np.array(numbers), sharding), shard_of(whole, sharding)
        assert result.tensors().keys() == expected.tensors().keys()
        for name, tensor in result.tensors().items():
            assert torch.equal(tensor, getattr(expected, name)), name
        assert len(result.aux) <= len(whole.aux) / size + 2


def test_reading_ahead_keeps_the_order(data):
    packs = [np.array([n]) for n in (4, 0, 6, 1, 2, 5, 7, 0, 4, 6, 1)]
    read = list(read_ahead(data, packs, torch.device("cpu")))
    for pack, numbers in zip(read, packs, strict=True):
        assert torch.equal(pack.input_ids, data.pack(numbers).input_ids)
    assert list(read_ahead(data, [], torch.device("cpu"))) == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use")
def test_packs_that_cross_to_a_gpu_hold_the_same_numbers(data):
    packs = [np.array(numbers) for numbers in ([4, 0], [6], [1, 2, 5], [7], [0])]
    read = list(read_ahead(data, packs, torch.device("cuda")))
    for pack, numbers in zip(read, packs, strict=True):
        for name in pack.tensors():
            assert torch.equal(getattr(pack, name).cpu(), getattr(data.pack(numbers), name)), name


def test_shards_that_do_not_belong_together_are_refused(targets, tmp_path):
    made = training_set(tmp_path, targets["llama"], documents=4)
    with pytest.raises(UserError, match="2 token shards but 1"):
        TrainingData(made.tokens, made.states[:1])
    with pytest.raises(UserError, match="captured from other tokens"):
        TrainingData(made.tokens, made.states[::-1])
    with pytest.raises(UserError, match="other settings"):
        TrainingData(made.tokens, made.states, TOKENS.digest, "0" * 16)
