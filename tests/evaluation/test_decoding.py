"""Batched decoding: the counts of one prompt at a time, and the target's own distribution."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from eagle3.draft.config import derive_config
from eagle3.draft.model import Eagle3Draft, initialise
from eagle3.evaluation.caches import WholeTexts, target_batch
from eagle3.evaluation.decoding import Limits, Models, decode_batch
from eagle3.evaluation.sampling import Sampling
from eagle3.target_model.config import load_config
from tests.builders.models import COMMON, LAYERS, VOCAB
from tests.builders.shards import TRAIN, changed, open_target, train_draft, training_set
from tests.evaluation.chain import DraftChain, decode_plain, decode_speculative

NEW, STOP = 14, {5, 11, 30}
PROMPTS = [np.random.default_rng(i).integers(3, VOCAB, 3 + 5 * i % 17).tolist() for i in range(7)]


@pytest.fixture(scope="module", params=["llama", "qwen3"])
def pair(request, targets, tmp_path_factory):
    """A target and a draft that has learned some of its greedy text."""
    folder, target = tmp_path_factory.mktemp("pair"), targets[request.param]
    engine, head = open_target(target)
    texts = []
    for prompt in PROMPTS[:4]:
        answer = decode_plain(engine, head, prompt, NEW, set()).tokens
        texts.append((prompt + answer, [0] * len(prompt) + [1] * len(answer)))
    train = changed(TRAIN, epochs=30, epochs_per_stage=30, learning_rate=1e-2, max_grad_norm=5.0)
    made = training_set(folder, target, train, texts=texts)
    draft, parts = train_draft(made, folder)
    ids = torch.from_numpy(made.mapping.target_ids)
    return Models(engine, head, draft.eval(), parts.embedding, ids)


def one_at_a_time(pair, prompt, limits):
    given = pair.engine, pair.head
    if limits.num_speculative_tokens == 0:
        return decode_plain(*given, prompt, limits.max_new, limits.stop)
    chain = DraftChain(pair.draft, pair.embedding, pair.target_ids)
    rest = prompt, limits.max_new, limits.stop, limits.num_speculative_tokens
    return decode_speculative(*given, chain, *rest)


@pytest.mark.parametrize("stop", [set(), STOP], ids=["no stop", "stop"])
@pytest.mark.parametrize("count", [0, 1, 4])
def test_a_batch_counts_what_one_prompt_at_a_time_counts(pair, count, stop):
    limits = Limits(NEW, stop, count)
    result = decode_batch(pair, PROMPTS, limits)
    for prompt, answer in zip(PROMPTS, result, strict=True):
        expected = one_at_a_time(pair, prompt, limits)
        assert answer.tokens == expected.tokens
        assert answer.committed == expected.committed
        assert answer.target_passes == expected.target_passes
        assert answer.gaps == pytest.approx(expected.gaps, abs=1e-4)
    if count == 4 and not stop:
        assert max(n for answer in result for n in answer.committed) > 2
        assert min(n for answer in result for n in answer.committed) == 1


@pytest.mark.parametrize("new", [1, 2, 3])
def test_a_short_answer_ends_where_it_should(pair, new):
    for count in (0, 5):
        result = decode_batch(pair, PROMPTS, Limits(new, set(), count))
        alone = [one_at_a_time(pair, prompt, Limits(new, set(), count)) for prompt in PROMPTS]
        assert [a.tokens for a in result] == [a.tokens for a in alone]
        assert [a.committed for a in result] == [a.committed for a in alone]


@pytest.mark.parametrize("count", [0, 4])
def test_whole_texts_in_every_pass_count_what_a_cache_counts(pair, count, monkeypatch):
    limits = Limits(NEW, STOP, count)
    cached = decode_batch(pair, PROMPTS, limits)
    monkeypatch.setattr("eagle3.evaluation.decoding.target_batch", WholeTexts)
    whole = decode_batch(pair, PROMPTS, limits)
    assert [a.tokens for a in whole] == [a.tokens for a in cached]
    assert [a.committed for a in whole] == [a.committed for a in cached]


def recurrent_target(folder, kind):
    """Layers of linear attention and short convolutions between those of attention."""
    torch.manual_seed(0)
    other = {"qwen3_5_text": "linear_attention", "lfm2": "conv"}[kind]
    gates = {"linear_num_value_heads": 4, "linear_num_key_heads": 2}
    gates |= {"linear_key_head_dim": 8, "linear_value_head_dim": 8}
    config = AutoConfig.for_model(
        kind,
        **COMMON | {"head_dim": 8, "layer_types": [other, "full_attention"] * (LAYERS // 2)},
        **(gates if kind == "qwen3_5_text" else {}),
    )
    model = AutoModelForCausalLM.from_config(config).float().eval()
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["qwen3_5_text", "lfm2"])
def test_a_target_with_recurrent_layers_gives_its_own_greedy_text(tmp_path, kind):
    """Its state after a rejected token cannot be taken back, so it has no cache."""
    engine, head = open_target(recurrent_target(tmp_path / kind, kind))
    assert isinstance(target_batch(engine), WholeTexts)
    weights = engine.body.embed_tokens.weight.detach()
    draft = Eagle3Draft(derive_config(engine.body.config, {}, 32, (1, 3, 4)))
    initialise(draft, 3)
    pair = Models(engine, head, draft.eval(), weights, torch.arange(3, 35))
    for count in (0, 3):
        for prompt, answer in zip(
            PROMPTS, decode_batch(pair, PROMPTS, Limits(NEW, set(), count)), strict=True
        ):
            whole = torch.tensor([prompt + answer.tokens])
            with torch.inference_mode():
                choices = head.logits(engine.states(whole)[1][0]).argmax(-1)
            assert choices[len(prompt) - 1 : -1].tolist() == answer.tokens
            assert len(answer.tokens) == NEW


def test_a_window_that_slides_sees_whole_windows(tmp_path):
    """Rejected columns must not take the places of tokens in it."""
    from tests.builders.models import save_model

    folder = save_model(tmp_path / "target", "qwen3", use_sliding_window=True, sliding_window=6,
                        max_window_layers=2)  # fmt: skip
    engine, head = open_target(folder)
    weights = engine.body.embed_tokens.weight.detach()
    draft = Eagle3Draft(derive_config(load_config(folder), {}, 32, (1, 3, 4)))
    initialise(draft, 3)
    pair = Models(engine, head, draft.eval(), weights, torch.arange(3, 35))
    limits = Limits(NEW, set(), 3)
    result = decode_batch(pair, PROMPTS, limits)
    plain = decode_batch(pair, PROMPTS, Limits(NEW, set(), 0))
    for prompt, answer, own in zip(PROMPTS, result, plain, strict=True):
        whole = torch.tensor([prompt + own.tokens])
        with torch.inference_mode():
            choices = head.logits(engine.states(whole)[1][0]).argmax(-1)
        assert choices[len(prompt) - 1 : -1].tolist() == own.tokens == answer.tokens
        expected = one_at_a_time(pair, prompt, limits)
        assert (answer.tokens, answer.committed) == (expected.tokens, expected.committed)


def exact_second_token(pair, prompt, temperature):
    """The target's own distribution of the second token of an answer, [V]."""
    with torch.inference_mode():

        def after(ids):
            last = pair.engine.states(torch.tensor(ids))[1][:, -1]
            return (pair.head.logits(last).double() / temperature).softmax(-1)

        first = after([prompt])[0]
        second = after([[*prompt, token] for token in range(VOCAB)])
    return first @ second


@pytest.mark.parametrize("proposals", ["argmax", "sampled"])
def test_sampled_answers_are_distributed_as_the_targets(pair, proposals):
    """Chi-square at fixed seeds over the second token, the first that a draft has proposed."""
    prompt, temperature, runs = PROMPTS[0], 0.8, 3000
    sampling = Sampling(temperature, proposals, seed=4)
    result = []
    for begin in range(0, runs, 500):
        seeds = range(begin, begin + 500)
        result += decode_batch(pair, [prompt] * 500, Limits(2, set(), 2), sampling, seeds)
    counts = np.bincount([answer.tokens[1] for answer in result], minlength=VOCAB)
    expected = exact_second_token(pair, prompt, temperature).numpy() * runs
    common = expected > 8
    pooled = np.append(counts[common], counts[~common].sum())
    wanted = np.append(expected[common], expected[~common].sum())
    freedom = len(pooled) - 1
    # the mean of chi-square is its freedom, its variance twice that
    assert ((pooled - wanted) ** 2 / wanted).sum() < freedom + 4 * (2 * freedom) ** 0.5
    accepted = sum(n > 1 for answer in result for n in answer.committed)
    assert 0.02 * runs < accepted < 0.98 * runs  # both ways to a token were taken


@pytest.mark.parametrize("proposals", ["argmax", "sampled"])
def test_what_is_drawn_for_a_prompt_does_not_depend_on_its_neighbours(pair, proposals):
    sampling, limits = Sampling(1.0, proposals, seed=9), Limits(8, STOP, 3)
    together = decode_batch(pair, PROMPTS, limits, sampling)
    for number, prompt in enumerate(PROMPTS):
        (alone,) = decode_batch(pair, [prompt], limits, sampling, [number])
        assert (alone.tokens, alone.committed) == (
            together[number].tokens,
            together[number].committed,
        )
    other = decode_batch(pair, PROMPTS, limits, replace(sampling, seed=10))
    assert [a.tokens for a in other] != [a.tokens for a in together]


def test_a_near_tie_is_one_for_the_size_of_the_logits(pair):
    """Rounding grows with them: sums of float32 around 30 differ by more than 1e-4."""
    limits = Limits(NEW, set(), 0)
    small, large = (
        decode_batch(replace(pair, head=replace(pair.head, scale=scale)), PROMPTS, limits)
        for scale in (50.0, 500.0)
    )
    for one, other in zip(small, large, strict=True):
        assert one.tokens == other.tokens
        assert one.gaps == pytest.approx(other.gaps, rel=1e-2, abs=1e-5)
