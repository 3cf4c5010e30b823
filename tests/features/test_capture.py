"""Captured states against a plain forward pass of one document at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from models import KINDS, LAYERS
from shards import chats, naive_states, open_target, token_shard
from transformers import AutoModelForCausalLM

from eagle3.features.capture import capture, token_batches
from eagle3.target.layers import aux_layers

NAMES = ("aux", "last", "teacher_argmax", "teacher_lse")


def naive_capture(directory, shard):
    """The definition, spelled out: one document, one pass, rows picked by hand."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    found = {name: [] for name in NAMES}
    for start, stop in zip(shard.doc_offsets[:-1], shard.doc_offsets[1:], strict=True):
        mask = shard.loss_mask[start:stop]
        supervised = [p for p in range(len(mask)) if mask[p]]
        if not supervised:
            continue
        end = supervised[-1]  # x_e
        ids = shard.input_ids[start:stop][: end + 1]
        aux, last, logits = naive_states(model, ids, aux_layers(None, LAYERS))
        found["aux"].append(aux[: max(end - 1, 0)])
        for p in range(1, end):
            if mask[p] and mask[p + 1]:
                found["last"].append(last[p : p + 1])
                found["teacher_argmax"].append(logits[p].argmax()[None].int())
                found["teacher_lse"].append(logits[p].logsumexp(-1)[None])
    return {name: torch.cat(parts) for name, parts in found.items()}


@pytest.fixture(scope="module")
def shard(tmp_path_factory):
    bare = (np.arange(3, 12), np.zeros(9, dtype=np.uint8))  # a document nobody answers in
    edge = [([5, 6], [1, 1]), ([5, 6, 7], [0, 1, 1]), ([9], [1]), ([7, 8, 9], [0, 0, 1])]
    documents = [*chats(5), bare, *edge, *chats(5, seed=9)]
    return token_shard(tmp_path_factory.mktemp("tokens") / "shard.safetensors", documents)


@pytest.mark.parametrize("kind", KINDS)
def test_capture_equals_one_document_at_a_time(targets, shard, kind):
    engine, head = open_target(targets[kind])
    found = capture(engine, head, shard, "fp32", 128)
    expected = naive_capture(targets[kind], shard)
    assert torch.equal(found["teacher_argmax"], expected["teacher_argmax"])
    for name in ("aux", "last", "teacher_lse"):
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=2e-5)


def test_a_batch_of_one_is_the_plain_pass_bit_for_bit(targets, shard):
    engine, head = open_target(targets["llama"])
    found = capture(engine, head, shard, "fp32", 1)
    expected = naive_capture(targets["llama"], shard)
    for name in ("aux", "last", "teacher_argmax"):
        assert torch.equal(found[name], expected[name]), name


@pytest.mark.parametrize("budget", [1, 37, 4096])
def test_the_token_budget_changes_neither_layout_nor_states(targets, shard, budget):
    engine, head = open_target(targets["qwen3"])
    found, other = (capture(engine, head, shard, "fp32", b) for b in (budget, 64))
    for name in NAMES:
        torch.testing.assert_close(found[name], other[name], rtol=1e-4, atol=2e-5)


def test_log_sum_exp_is_of_the_state_as_stored(targets, shard):
    """With a lossy codec no probability on the draft vocabulary exceeds one."""
    engine, head = open_target(targets["llama"])
    found = capture(engine, head, shard, "bf16", 128)
    assert found["aux"].dtype == found["last"].dtype == torch.bfloat16
    logits = head.logits(found["last"].float())
    torch.testing.assert_close(found["teacher_lse"], logits.logsumexp(-1), rtol=1e-6, atol=1e-6)
    # the argmax is the one of the target itself, before anything was rounded
    assert torch.equal(
        found["teacher_argmax"], naive_capture(targets["llama"], shard)["teacher_argmax"]
    )


@pytest.mark.parametrize("documents", [[], [([3, 4, 5], [0, 0, 0])]])
def test_nothing_supervised_gives_a_shard_without_rows(targets, tmp_path, documents):
    shard = token_shard(tmp_path / "empty.safetensors", documents)
    engine, head = open_target(targets["llama"])
    found = capture(engine, head, shard, "bf16", 128)
    assert [len(found[name]) for name in NAMES] == [0, 0, 0, 0]
    assert found["aux"].shape == (0, 3 * engine.model.config.hidden_size)


@pytest.mark.parametrize("budget", [1, 10, 64, 10**6])
def test_batches_hold_every_document_once_within_the_budget(budget):
    lengths = np.random.default_rng(0).integers(0, 40, 50)
    batches = token_batches(lengths, budget)
    seen = np.concatenate(batches)
    assert sorted(seen.tolist()) == np.flatnonzero(lengths > 0).tolist()
    for batch in batches:
        assert len(batch) == 1 or len(batch) * lengths[batch].max() <= budget
