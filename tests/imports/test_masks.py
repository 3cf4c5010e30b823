"""Masks of other projects, brought to what the target emits; against a slow twin."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from eagle3.config.tokens import Tokens
from eagle3.data.faults import BadRow
from eagle3.imports.document import PeerDocument
from eagle3.imports.masks import Answers, Fit, answers_of_target, runs_of, tokenized, total
from eagle3.imports.prompts import prompts_of
from eagle3.target_model.config import load_config
from tests.builders.shards import token_shard
from tests.imports.conftest import ASSISTANT, END, USER, chat

ANSWERS = Answers((ASSISTANT,), frozenset({END}))


def document(ids: list[int], mask: list[int]) -> PeerDocument:
    nothing = torch.zeros(0)
    return PeerDocument(np.array(ids), np.array(mask), nothing, nothing)


def test_a_mask_of_ours_stays_as_it_is() -> None:
    for seed in range(20):
        ids, mask = chat(seed, turns=3)
        kept, fit = ANSWERS.trimmed(ids, mask)
        assert np.array_equal(kept, mask)
        assert fit == Fit(answers=3, begun=3, inner=2, ended=2)


def test_what_comes_behind_a_stop_token_and_inside_the_prompt_is_dropped() -> None:
    thinking = Answers((ASSISTANT, 90), frozenset({END}))  # a prompt that opens a thought
    ids = [USER, 7, END, ASSISTANT, 90, 20, 21, END, 8, USER, 7, ASSISTANT, 90, 22, END, 8]
    mask = [0, 0, 0, 0, 1, 1, 1, 1, 1, 0, 0, 0, 1, 1, 1, 1]
    kept, fit = thinking.trimmed(np.array(ids), np.array(mask))
    assert kept.tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 1, 1, 0]
    assert fit == Fit(answers=2, begun=2, inner=1, ended=1, after_stop=2, in_prompt=2)


def test_a_mask_that_has_the_whole_prompt_is_trimmed_to_the_answer() -> None:
    """As of a project that supervises the header of an assistant's turn."""
    header = Answers((ASSISTANT, 90), frozenset({END}))
    ids, mask = [USER, 7, END, ASSISTANT, 90, 20, END], [0, 0, 0, 1, 1, 1, 1]
    kept, fit = header.trimmed(np.array(ids), np.array(mask))
    assert kept.tolist() == [0, 0, 0, 0, 0, 1, 1]
    assert fit == Fit(answers=1, begun=1, in_prompt=2)


def slow(ids: list[int], mask: list[int], prompt: list[int], stop: set[int]) -> list[int]:
    """Token by token: a supervised token stays if no token before it in its run stops the target,
    and it is not part of a prompt that ends inside the run."""
    kept = list(mask)
    for place in range(len(ids)):
        if not mask[place]:
            continue
        start = place
        while start and mask[start - 1]:
            start -= 1
        stop_at = place
        while stop_at < len(ids) and mask[stop_at]:
            stop_at += 1
        begin = start
        for candidate in range(start, min(start + len(prompt) + 1, stop_at)):
            if candidate >= len(prompt) and ids[candidate - len(prompt) : candidate] == prompt:
                begin = candidate
                break
        if place < begin or stop & set(ids[begin:place]):
            kept[place] = 0
    return kept


def test_random_masks_agree_with_the_slow_twin() -> None:
    random = np.random.default_rng(0)
    for _ in range(300):
        length = int(random.integers(1, 30))
        ids, mask = random.integers(0, 5, length).tolist(), random.integers(0, 2, length).tolist()
        prompt = random.integers(0, 5, random.integers(0, 3)).tolist()
        kept, fit = Answers(tuple(prompt), frozenset({1})).trimmed(np.array(ids), np.array(mask))
        assert kept.tolist() == slow(ids, mask, prompt, {1})
        assert fit.after_stop + fit.in_prompt == sum(mask) - sum(kept.tolist())
        assert sum(stop - start for start, stop in runs_of(np.array(mask))) == sum(mask)


def test_padding_goes_with_what_follows_the_last_supervised_token() -> None:
    ids, mask = chat(1)
    padded = document([*ids, 0, 0, 0], [*mask, 0, 0, 0])
    made, _ = tokenized("7", padded, ANSWERS, 999, False)
    assert made.row_id == "7" and not made.truncated
    assert np.array_equal(made.input_ids, ids) and np.array_equal(made.loss_mask, mask)


def test_a_long_document_is_cut_and_one_without_answer_is_a_bad_row() -> None:
    ids, mask = chat(2)
    second = int(np.flatnonzero(np.diff(mask) == 1)[-1]) + 1
    made, _ = tokenized("x", document(ids.tolist(), mask.tolist()), ANSWERS, second + 2, False)
    assert len(made.input_ids) == second + 2 and made.truncated
    made, _ = tokenized("x", document(ids.tolist(), mask.tolist()), ANSWERS, 999, True)
    assert made.loss_mask[:second].sum() == 0 and made.loss_mask[second:].all()
    with pytest.raises(BadRow, match="no supervised token within max_length"):
        tokenized("x", document(ids.tolist(), mask.tolist()), ANSWERS, 2, False)
    with pytest.raises(BadRow, match=r"no supervised token$"):
        tokenized("x", document([1, 2], [0, 0]), ANSWERS, 99, False)


def test_the_targets_own_template_says_where_answers_begin(target: Path) -> None:
    tokens = Tokens()
    assert answers_of_target(target, load_config(target), tokens, False) == ANSWERS


def test_masks_that_begin_or_end_elsewhere_do_not_fit() -> None:
    ids, mask = chat(3, turns=4)
    fits = [ANSWERS.trimmed(ids, mask)[1], ANSWERS.trimmed(ids, np.roll(mask, 2))[1]]
    assert [fit.alike for fit in fits] == [True, False]
    ended = Answers((), frozenset({END})).trimmed(ids, mask * (ids != END))[1]
    assert (ended.inner, ended.ended, ended.alike) == (3, 0, False)
    assert total(fits).begun == sum(fit.begun for fit in fits) == 4


def test_prompts_end_where_the_last_answer_begins(tmp_path: Path) -> None:
    chats = [chat(n) for n in range(3)] + [(np.array([5, 6]), np.array([0, 0]))]
    shard = token_shard(tmp_path / "shard-00000.safetensors", chats)
    asked = list(prompts_of([shard]))
    assert [question.id for question in asked] == ["row-0", "row-1", "row-2"]
    for question, (ids, mask) in zip(asked, chats, strict=False):
        end = int(np.flatnonzero(np.diff(mask) == 1)[-1]) + 1
        assert question.tokens == ids[:end].tolist() and question.tokens[-1] == ASSISTANT
