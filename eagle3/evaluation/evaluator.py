"""Evaluation by decoding sets of prompts, with the exported draft and without it."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from eagle3.config.tokens import Tokens
from eagle3.data.conversations import BadRow, Message
from eagle3.data.prompts import Question, QuestionRows, first_prompts
from eagle3.data.templates import Renderer
from eagle3.draft.config import check_pair
from eagle3.engines.hf import HFTarget
from eagle3.errors import UserError
from eagle3.evaluation.acceptance import acceptance, unigram_acceptance, unlearned
from eagle3.evaluation.decoding import GREEDY, Decoded, Limits, Models, compare, decode_batch
from eagle3.evaluation.sampling import Sampling
from eagle3.export.load import load_draft
from eagle3.target_model.config import load_config, stop_ids
from eagle3.target_model.reader import read_head
from eagle3.target_model.tokenizer import load_tokenizer
from eagle3.target_model.weights import TargetWeights

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prompt:
    """One turn of a question: the tokens that the target reads before it answers."""

    set: str
    id: str
    turn: int  # from 1
    tokens: list[int]


class Evaluator:
    """Target and exported draft, ready to answer prompts."""

    def __init__(
        self,
        target: Path,
        draft: Path,
        values: dict[str, Any],
        loading: dict[str, Any],
        templates: dict[str, Any],
        device: str,
        batch: int,
        draft_digest: str | None = None,
        adapter: Path | None = None,
    ) -> None:
        """`values`: the `evaluation` section; `loading` and `templates`: keys of the
        sections `target` and `tokens`; `batch`: prompts that are answered together;
        `adapter`: folder of a LoRA adapter on the target."""
        trust = loading["trust_remote_code"]
        self.values, self.batch = values, batch
        self.config = load_config(target, trust)
        self.tokenizer = load_tokenizer(target, trust)
        self.stop = set(stop_ids(target, self.config))
        self.renderer = Renderer.of(self.tokenizer, Tokens.from_settings(templates), self.stop)
        loaded_draft, mapping = load_draft(draft, draft_digest)
        check_pair(draft, loaded_draft.config, self.config)
        engine = HFTarget.load(
            target,
            loaded_draft.config.aux_layers,
            values["dtype"],
            device,
            trust,
            spread=torch.cuda.device_count() > 1,  # a job has as many GPUs as the target needs
            adapter=adapter,
        )
        placement = engine.device, engine.dtype
        weights = TargetWeights(target)
        keys = loading["lm_head_key"], loading["embedding_key"]
        self.models = Models(
            engine,
            read_head(weights, self.config, *keys).to(*placement),
            loaded_draft.to(*placement),
            weights.read(loading["embedding_key"], "embedding_key").to(*placement),
            torch.from_numpy(mapping.target_ids).to(engine.device),
        )

    def ask(
        self, name: str, rows: QuestionRows
    ) -> tuple[list[Prompt], list[Decoded], dict[str, int]]:
        """The prompts of a set, the target's own greedy answers, and the number of skipped rows by
        cause. A later turn continues the answer to the previous one.

        Raises UserError if no prompt leaves room for an answer.
        """
        first_turns, skipped = first_prompts(
            rows, self.values["num_prompts"], lambda q: self._encoded(q, q.messages)
        )
        open_turns = [(question, question.messages, ids) for question, ids in first_turns]
        if not open_turns:
            raise UserError(
                f"evaluation: no row of {name} can be a prompt ({dict(skipped)}); raise "
                "dataset.eval_fraction or lower evaluation.max_new_tokens"
            )
        if len(open_turns) < self.values["num_prompts"]:
            log.warning(
                "%s: only %d of the %d prompts requested",
                name,
                len(open_turns),
                self.values["num_prompts"],
            )
        prompts: list[Prompt] = []
        answers: list[Decoded] = []
        turn = 1
        while open_turns:
            turn_prompts = [Prompt(name, question.id, turn, ids) for question, _, ids in open_turns]
            decoded = self.decode(turn_prompts, 0)
            prompts, answers = prompts + turn_prompts, answers + decoded
            next_turns = []
            for (question, messages, ids), answer in zip(open_turns, decoded, strict=True):
                if len(question.later) >= turn:
                    prompt_text = self.tokenizer.decode(ids, clean_up_tokenization_spaces=False)
                    conversation = [
                        *messages,
                        self.renderer.answer(answer.tokens, prompt_text),
                        {"role": "user", "content": question.later[turn - 1]},
                    ]
                    try:
                        next_turns.append(
                            (question, conversation, self._encoded(question, conversation))
                        )
                    except BadRow as fault:
                        skipped[str(fault)] += 1
            open_turns, turn = next_turns, turn + 1
        return prompts, answers, dict(skipped)

    def decode(
        self, prompts: Sequence[Prompt], num_speculative_tokens: int, sampling: Sampling = GREEDY
    ) -> list[Decoded]:
        """Answers to prompts, batched by length."""
        limits = Limits(self.values["max_new_tokens"], self.stop, num_speculative_tokens)
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i].tokens))
        answers: dict[int, Decoded] = {}
        for start in range(0, len(order), self.batch):
            indices = order[start : start + self.batch]
            ids = [prompts[i].tokens for i in indices]
            decoded = decode_batch(self.models, ids, limits, sampling, indices)
            answers |= dict(zip(indices, decoded, strict=True))
            log.info("%d of %d prompts answered", len(answers), len(prompts))
        return [answers[i] for i in range(len(prompts))]

    def _encoded(self, question: Question, messages: list[Message]) -> list[int]:
        """Tokens of a prompt. Raises BadRow if it is too long or cannot be rendered."""
        draft_tokens, answer_tokens = (
            self.values["num_speculative_tokens"],
            self.values["max_new_tokens"],
        )
        room = self.config.max_position_embeddings - answer_tokens - draft_tokens - 1
        tokens = question.tokens or self._tokens(question, messages)
        if len(tokens) > room:
            raise BadRow(f"longer than {room} tokens")
        return tokens

    def _tokens(self, question: Question, messages: list[Message]) -> list[int]:
        """Tokens of a prompt as a server renders it. Raises BadRow if the template refuses it."""
        if question.text is None:
            text = self.renderer.prompt(messages, question.tools, question.options)
        else:
            text = self.renderer.prompt_in(question.text)
        tokens: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return tokens


def evaluate(evaluator: Evaluator, sets: Mapping[str, QuestionRows]) -> dict[str, Any]:
    """Figures over all prompts and for each set by name, and one record for each prompt.

    Raises UserError if speculation changed an answer in float32 away from a near-tie: then the
    decoder or the export is wrong and the figures are meaningless.
    """
    values, started = evaluator.values, time.monotonic()
    prompts: list[Prompt] = []
    plain: list[Decoded] = []
    skipped = {}
    for name, rows in sets.items():
        set_prompts, answers, skipped[name] = evaluator.ask(name, rows)
        prompts, plain = prompts + set_prompts, plain + answers
    count = values["num_speculative_tokens"]
    greedy = evaluator.decode(prompts, count)
    records = [
        _record(evaluator.tokenizer, *item) for item in zip(prompts, plain, greedy, strict=True)
    ]
    mismatched = [r["id"] for r in records if not r["identical"] and r["tie_at"] is None]
    if mismatched and values["dtype"] == "float32":
        raise UserError(
            f"evaluation: speculative output differs from the target's own greedy output for "
            f"{len(mismatched)} prompts ({', '.join(mismatched[:5])}) away from any near-tie; the "
            "decoder or the export is wrong"
        )
    causes = sum((Counter(item) for item in skipped.values()), Counter())
    figures = _greedy_figures(records, count) | {"prompts_skipped": dict(causes)}
    figures["sets"] = {
        name: _greedy_figures([r for r in records if r["set"] == name], count)
        | {"prompts_skipped": skipped[name]}
        for name in sets
    }
    figures["unigram_acceptance"] = unigram_acceptance(d.tokens for d in greedy)
    if warning := unlearned(figures):
        log.warning("%s", warning)
    if values["temperature"] > 0:
        figures["sampled"] = _sampled_figures(evaluator, prompts, list(sets))
    seconds = round(time.monotonic() - started, 1)
    return figures | {"seconds": seconds, "per_prompt": records}


def _record(tokenizer: Any, prompt: Prompt, plain: Decoded, greedy: Decoded) -> dict[str, Any]:
    """The record of one prompt."""
    comparison = compare(greedy, plain)
    return {
        "set": prompt.set,
        "id": prompt.id,
        "turn": prompt.turn,
        "prompt_tokens": len(prompt.tokens),
        "new_tokens": len(greedy.tokens),
        "committed": greedy.committed,
        "passes_plain": plain.target_passes,
        "passes_speculative": greedy.target_passes,
        "identical": comparison.identical,
        "tie_at": comparison.tie_at,
        "text": tokenizer.decode(greedy.tokens),
    }


def _greedy_figures(records: Sequence[dict[str, Any]], count: int) -> dict[str, Any]:
    plain = sum(r["passes_plain"] for r in records)
    speculative = sum(r["passes_speculative"] for r in records)
    committed = _by_question([(r["set"], r["id"], r["committed"]) for r in records])
    return {
        **acceptance(committed, count),
        "num_speculative_tokens": count,
        "greedy_identical": all(r["identical"] or r["tie_at"] is not None for r in records),
        "greedy_ties": sum(r["tie_at"] is not None for r in records),
        "prompts": len(records),
        "new_tokens": sum(r["new_tokens"] for r in records),
        "target_passes_plain": plain,
        "target_passes_speculative": speculative,
        "target_passes_saved": 1 - speculative / plain,
    }


def _sampled_figures(
    evaluator: Evaluator, prompts: Sequence[Prompt], sets: Sequence[str]
) -> dict[str, Any]:
    """Acceptance when sampling, for both kinds of proposals."""
    count, temperature = evaluator.values["num_speculative_tokens"], evaluator.values["temperature"]
    figures: dict[str, Any] = {"temperature": temperature}
    for proposals in ("argmax", "sampled"):
        answers = evaluator.decode(prompts, count, Sampling(temperature, proposals))
        counts = [(p.set, p.id, a.committed) for p, a in zip(prompts, answers, strict=True)]
        figures[f"{proposals}_proposals"] = {
            **acceptance(_by_question(counts), count),
            "sets": {
                name: acceptance(_by_question([c for c in counts if c[0] == name]), count)
                for name in sets
            },
        }
    return figures


def _by_question(counts: Sequence[tuple[str, str, list[int]]]) -> list[list[int]]:
    """Counts with the turns of a question joined: intervals resample questions."""
    by_question: dict[tuple[str, str], list[int]] = {}
    for name, identity, committed in counts:
        by_question.setdefault((name, identity), []).extend(committed)
    return list(by_question.values())
