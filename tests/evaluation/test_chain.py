"""Chain decoding: the target's own text for any draft, and the draft as it was trained."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from eagle3.draft.model import Eagle3Draft, initialise
from eagle3.engines.hf import HFTarget
from eagle3.objective import head_loss
from eagle3.objective.pack import Pack
from eagle3.objective.ttt import Objective, TargetParts, ttt_loss
from eagle3.target_model.reader import Head
from tests.builders.models import VOCAB
from tests.builders.shards import TRAIN, changed, open_target, train_draft, training_set
from tests.evaluation.chain import DraftChain, decode_plain, decode_speculative

NEW = 16
PROMPTS = [np.random.default_rng(i).integers(3, VOCAB, 4 + 2 * i).tolist() for i in range(4)]


@dataclass
class Models:
    """A target and a draft that has learned the target's own greedy text."""

    engine: HFTarget
    head: Head
    draft: Eagle3Draft
    parts: TargetParts
    target_ids: torch.Tensor
    answers: list[list[int]]  # the target's own, without stop tokens

    def chain(self, draft=None, kind=DraftChain):
        return kind(draft or self.draft, self.parts.embedding, self.target_ids)

    def plain(self, prompt, new=NEW, stop=frozenset()):
        return decode_plain(self.engine, self.head, prompt, new, set(stop))

    def speculative(self, chain, prompt, count, new=NEW, stop=frozenset()):
        return decode_speculative(self.engine, self.head, chain, prompt, new, set(stop), count)


EVERY = dict.fromkeys(("qk_norm", "fc_norm", "norm_output", "norm_before_residual"), True)
DEEP = {"num_hidden_layers": 2}
NARROW = {"num_hidden_layers": 2, "sliding_window": 6}
# the target, the draft's switches, and the layers that it reads
PAIRS = {
    "llama": ("llama", {}, None),
    "qwen3": ("qwen3", {}, None),
    "every switch": ("llama", EVERY, None),
    "two layers of five states": ("llama", DEEP, [0, 1, 3, 4, 6]),
    "two layers that see six rows": ("llama", NARROW, None),
    "every switch, two layers of one state": ("qwen3", EVERY | DEEP, [3]),
}


@pytest.fixture(scope="module", params=PAIRS)
def pair(request, targets, tmp_path_factory):
    kind, switches, layers = PAIRS[request.param]
    folder = tmp_path_factory.mktemp("pair")
    engine, head = open_target(targets[kind], layers=layers)
    texts, answers = [], []
    for prompt in PROMPTS:
        answer = decode_plain(engine, head, prompt, NEW, set()).tokens
        texts.append((prompt + answer, [0] * len(prompt) + [1] * len(answer)))
        answers.append(answer)
    train = changed(
        TRAIN, epochs=40, epochs_per_stage=40, learning_rate=1e-2, max_grad_norm=5.0, ttt_steps=4
    )
    made = training_set(folder, targets[kind], train, texts=texts, layers=layers)
    made.settings.values["draft"] |= switches
    draft, parts = train_draft(made, folder)
    target_ids = torch.from_numpy(made.mapping.target_ids)
    return Models(engine, head, draft.eval(), parts, target_ids, answers)


def random_draft(pair):
    draft = Eagle3Draft(pair.draft.config)
    initialise(draft, 17)
    return draft


class Adversary(DraftChain):
    """Knows the answer: proposes `right` true tokens and then only wrong ones."""

    answer: list[int]
    prompt: int
    right: int

    def propose(self, hidden, count):
        done = len(self.k) - self.prompt + 1  # rows of the cache: every token but the last
        true = self.answer[done : done + count] + [0] * count
        return [t if i < self.right else (t + 1) % VOCAB for i, t in enumerate(true[:count])]


@pytest.mark.parametrize("count", [1, 2, 6])
@pytest.mark.parametrize("quality", ["good", "random"])
def test_the_text_is_the_targets_own_for_any_draft(pair, quality, count):
    draft = pair.draft if quality == "good" else random_draft(pair)
    committed = []
    for prompt, answer in zip(PROMPTS, pair.answers, strict=True):
        result = pair.speculative(pair.chain(draft), prompt, count)
        assert result.tokens == answer
        assert all(1 <= n <= count + 1 for n in result.committed)
        assert sum(result.committed) >= len(result.tokens) - 1
        assert result.target_passes == 1 + len(result.committed)
        committed += result.committed
    length = sum(committed) / len(committed)
    assert length > 1.4 if quality == "good" else length < 1.3


@pytest.mark.parametrize("right", [0, 1, 3, 5])
def test_an_adversary_costs_passes_and_never_a_token(pair, right):
    prompt = PROMPTS[2]
    plain = pair.plain(prompt, 24)  # longer than asked for below, so the adversary never runs out
    chain = pair.chain(kind=Adversary)
    chain.answer, chain.prompt, chain.right = plain.tokens, len(prompt), right
    result = pair.speculative(chain, prompt, 5)
    assert result.tokens == plain.tokens[:NEW]
    assert set(result.committed) == {right + 1}


class Recorder(DraftChain):
    """Remembers what was proposed after how many committed tokens."""

    def propose(self, hidden, count):
        before = (self.k.clone(), self.v.clone())
        chosen = super().propose(hidden, count)
        assert torch.equal(self.k, before[0]) and torch.equal(self.v, before[1])
        self.seen = [*getattr(self, "seen", []), (len(self.k), chosen)]
        return chosen


def slow_proposals(pair, aux, tokens, count):
    """The chain after `tokens`, recomputed from nothing: one full causal pass for each proposal.

    aux [n, C H] true states of every token but the last.
    """
    draft, chain = pair.draft, []
    hidden = draft.project_aux(aux)  # what each row takes in
    reads = list(tokens[1:])
    for _ in range(count):
        n = len(hidden)
        places = torch.arange(n)
        embedded, out = pair.parts.embedding[torch.tensor(reads)], hidden
        for number in range(draft.config.num_hidden_layers):
            x = draft.layer_input(embedded, out, number)
            q, (k, v) = draft.queries(x, places, number), draft.keys_values(x, places, number)
            repeat = q.shape[1] // k.shape[1]
            k, v = k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1)
            scores = torch.einsum("qhd,khd->hqk", q, k) * q.shape[-1] ** -0.5
            hidden_keys = torch.ones(n, n).triu(1)
            if draft.config.sliding_window is not None:
                hidden_keys += torch.ones(n, n).tril(-draft.config.sliding_window)
            scores = scores.masked_fill(hidden_keys.bool(), float("-inf"))
            attended = torch.einsum("hqk,khd->qhd", scores.softmax(-1), v)
            out = draft.finish(out, attended, number)
        chain.append(int(pair.target_ids[draft.logits(out[-1:])[0].argmax()]))
        hidden, reads = torch.cat([hidden, out[-1:]]), [*reads, chain[-1]]
    return chain


@torch.no_grad()
def test_every_proposal_equals_one_recomputed_over_true_states(pair):
    """Rejected rows leave no trace, and committed rows are rebuilt from the target's states."""
    for prompt in PROMPTS[:3]:
        chain = pair.chain(kind=Recorder)
        result = pair.speculative(chain, prompt, 4)
        whole = prompt + result.tokens
        aux = pair.engine.states(torch.tensor([whole]))[0][0].clone()
        assert len(chain.seen) == len(result.committed) > 1
        for rows, proposed in chain.seen:
            # the cache holds a row for every token but the last one
            assert proposed == slow_proposals(pair, aux[:rows], whole[: rows + 1], 4)


@torch.no_grad()
def test_a_chain_is_the_training_time_test_of_its_first_row(pair, monkeypatch):
    """Same positions, same tokens in, same states in: logits of proposal k are those of step k."""
    count, logits = 4, []
    hook = pair.draft.lm_head.register_forward_hook(lambda _m, _i, out: logits.append(out))
    row_losses, trained = head_loss.row_losses, []

    def watched(kind, found, *more):
        trained.extend(found.clone())
        return row_losses(kind, found, *more)

    monkeypatch.setattr(head_loss, "row_losses", watched)
    try:
        for prompt in PROMPTS:
            first = pair.plain(prompt, 1).tokens
            prompt_aux = pair.engine.states(torch.tensor([prompt]))[0][0].clone()
            chain = pair.chain()
            hidden = chain.extend(prompt_aux, torch.tensor(prompt[1:] + first))
            logits.clear()
            proposed = chain.propose(hidden, count)
            served = [out[0] for out in logits]

            # one document in which the target said exactly what the draft proposed
            ids = torch.tensor(prompt + first + proposed)
            n, total = len(prompt), len(ids)
            aux, last = (s[0].clone() for s in pair.engine.states(ids[None]))
            teachers = torch.arange(n, total - 1)
            pack = Pack(
                input_ids=ids,
                loss_mask=torch.arange(total) >= n,
                documents=torch.zeros(total, dtype=torch.int64),
                positions=torch.arange(total),
                aux=aux[: total - 2],
                row_tokens=torch.arange(total - 2),
                last=last[teachers],
                last_tokens=teachers,
                teacher_argmax=pair.target_ids[:1].expand(len(teachers)),  # any token it can say
                teacher_lse=torch.zeros(len(teachers)),
            )
            trained.clear()
            _, totals = ttt_loss(pair.draft, pack, pair.parts, Objective(steps=count))
            assert totals.active.tolist() == [4, 3, 2, 1]
            # by teacher row, then by step: the first active row is the last row of the prompt, and
            # what it says at step k is taught by teacher row k, after rows of earlier steps
            at = 0
            for k in range(count):
                at += k
                torch.testing.assert_close(trained[at + k], served[k], rtol=1e-4, atol=1e-4)
                assert int(pair.target_ids[trained[at + k].argmax()]) == proposed[k]
    finally:
        hook.remove()


@pytest.mark.parametrize("count", [1, 4])
def test_the_answer_ends_with_the_first_stop_token(pair, count):
    for prompt, free in zip(PROMPTS[:3], pair.answers, strict=False):
        for at in (0, 1, 4, 9):
            stop = {free[at]}
            plain = pair.plain(prompt, stop=stop)
            result = pair.speculative(pair.chain(), prompt, count, stop=stop)
            assert result.tokens == plain.tokens == free[: free.index(free[at]) + 1]
            # nothing behind the stop token is counted as accepted
            assert sum(result.committed) == len(result.tokens) - 1


@pytest.mark.parametrize("new", [1, 2, 3, 7])
def test_the_answer_is_never_longer_than_asked_for(pair, new):
    result = pair.speculative(pair.chain(), PROMPTS[0], 5, new)
    assert result.tokens == pair.plain(PROMPTS[0], new).tokens == pair.answers[0][:new]


def test_gaps_are_between_the_best_two_logits(pair):
    plain = pair.plain(PROMPTS[1], 3)
    _, last = pair.engine.states(torch.tensor([PROMPTS[1] + plain.tokens[:2]]))
    with torch.inference_mode():
        best = pair.head.logits(last[0, -3:]).topk(2).values
    sizes = best[:, 0].abs().clamp_min(1.0)
    torch.testing.assert_close(torch.tensor(plain.gaps), (best[:, 0] - best[:, 1]) / sizes)
