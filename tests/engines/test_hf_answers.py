"""Answers of a small target in this process, against a loop of one token at a time."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch

from eagle3.config.dataset import Regenerate
from eagle3.config.tokens import Tokens
from eagle3.data.answer_record import Request, whole_characters
from eagle3.engines.hf_answers import HFAnswers, _drawing
from tests.builders.models import save_model, save_tokenizer

GREEDY = Regenerate(temperature=0.0, top_p=1.0, top_k=None, max_tokens=8, seed=0)


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    folder = save_model(
        tmp_path_factory.mktemp("answers") / "target", "llama", max_position_embeddings=64
    )
    save_tokenizer(folder)
    return folder


def engine(target, sampling=GREEDY, batch=3):
    return HFAnswers(target, Tokens(), sampling, batch, "float32")


def requests(*lengths):
    return [
        Request(
            str(n),
            [{"role": "user", "content": " ".join(f"w{(7 * n + i) % 80}" for i in range(length))}],
            None,
            seed=n,
        )
        for n, length in enumerate(lengths)
    ]


@torch.no_grad()
def greedy(one, request):
    """What the target says, one full pass for each token."""
    text = one.renderer.prompt(request.messages)
    ids = one.tokenizer(text, add_special_tokens=False)["input_ids"]
    begin = len(ids)
    for _ in range(GREEDY.max_tokens):
        ids.append(int(one.model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[begin:]


def test_answers_are_those_of_the_slow_loop_whatever_shares_the_batch(target):
    asked = requests(3, 9, 5, 1, 6)
    one = engine(target)
    slow = [greedy(one, request) for request in asked]
    ended, stop = next(
        (n, token)
        for n, tokens in enumerate(slow)
        for token in tokens
        if one.tokenizer.decode(tokens[: tokens.index(token)]).strip()
    )
    for batch in (1, 3, 5):
        several = engine(target, batch=batch)
        several.stops = [stop]
        result = dict(several(asked))
        assert sorted(result) == list(range(5))
        for number, tokens in enumerate(slow):
            assert result[number].cut == (stop not in tokens)
            end = tokens.index(stop) if stop in tokens else len(tokens)
            text = one.tokenizer.decode(tokens[:end])
            assert result[number].content == (text if text.strip() else "")
        assert result[ended].cause is None


def test_a_prompt_that_leaves_no_room_is_refused_and_the_others_are_answered(target):
    asked = requests(3, 70, 5)
    result = dict(engine(target)(asked))
    assert result[1].cause == "prompt leaves no room for an answer"
    assert result[0].cut and result[2].cut and not (result[0].cause or result[2].cause)


def test_samples_are_the_same_again_and_follow_the_seed(target):
    sampling = Regenerate(temperature=1.0, top_p=0.95, top_k=20, max_tokens=8, seed=0)

    def sampled(asked):
        one = engine(target, sampling)
        one.stops = []
        made = []
        one._answer = lambda tokens, prompt: made.append(tokens)
        list(one(asked))
        return made

    asked = requests(3, 4)
    other = [Request(r.id, r.messages, r.tools, r.seed + 1) for r in asked]
    assert sampled(asked) == sampled(asked) != sampled(other)


DRAWN = GREEDY.model_copy(update={"temperature": 0.9, "top_p": 0.95, "top_k": 40})


def test_an_answer_that_is_drawn_depends_on_its_own_seed_alone(target):
    """Not on what is in its batch: a killed job asks for the rest alone."""
    asked = requests(3, 9, 5, 1, 6)
    whole = dict(engine(target, DRAWN, 5)(asked))
    for batch in (1, 2):
        assert dict(engine(target, DRAWN, batch)(asked)) == whole
    assert dict(engine(target, DRAWN, 5)(asked[3:])) == {n: whole[n + 3] for n in (0, 1)}
    reseeded = [replace(request, seed=request.seed + 100) for request in asked]
    assert dict(engine(target, DRAWN, 5)(reseeded)) != whole


def test_tokens_are_drawn_from_the_targets_distribution():
    scores = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05]))
    count, seen = 4000, torch.zeros(4)
    steps = _drawing(
        DRAWN.model_copy(update={"temperature": 1.0, "top_p": 0.9, "top_k": None}), [3]
    )
    for _ in range(count):
        drawn = scores[None]
        for step in steps:
            drawn = step(torch.zeros(1, 1, dtype=torch.int64), drawn)
        seen[drawn.argmax()] += 1
    kept = torch.tensor([0.5, 0.3, 0.15, 0.0]) / 0.95  # top_p leaves the last one out
    assert torch.allclose(seen / count, kept, atol=0.03) and seen[3] == 0
    assert _drawing(GREEDY, [1, 2]) == []


def test_penalties_of_the_targets_own_file_are_left_out(target, tmp_path):
    """Answers are what the target says under plain sampling, so greedy ones are its argmax."""
    folder = tmp_path / "target"
    shutil.copytree(target, folder)
    path = folder / "generation_config.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(known | {"repetition_penalty": 5.0, "no_repeat_ngram_size": 1}))
    asked = requests(3, 9)
    assert dict(engine(folder)(asked)) == dict(engine(target)(asked))
    assert len(set(greedy(engine(target), asked[0]))) < GREEDY.max_tokens  # it repeats itself


def test_half_a_character_is_cut_off_with_the_answer():
    assert whole_characters("so \u4f60\ufffd", cut=True) == "so \u4f60"
    assert whole_characters("so \ufffd", cut=False) == "so \ufffd"  # the target's own
