"""Converters from a dataset's own columns to a row of turns, one for each shape.

A converter takes a row and returns one that `conversations.parse_row` understands, or raises
BadRow. No row vanishes: one that a converter cannot read is counted as bad.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from eagle3.data.conversations import BadRow

Converter = Callable[[Mapping[str, Any]], Mapping[str, Any]]


def as_it_is(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """A row that `parse_row` understands already."""
    return row


def turns_named(row: Mapping[str, Any], identity: str) -> Mapping[str, Any]:
    """The same, with the id in the column `identity`."""
    return {**row, "id": row.get(identity)}


def pair(
    row: Mapping[str, Any], question: str, answer: str, context: str | None = None
) -> Mapping[str, Any]:
    """A question and its answer; `context`: a column with what the question is about, if any."""
    prompt = _text(row, question)
    if context is not None and row.get(context):
        prompt = f"{prompt}\n\n{_text(row, context)}"
    return question_and_answer(row, prompt, _text(row, answer))


def reply_beside(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """A prompt as the only turn, and the reply in another column."""
    turns = row.get("conversation")
    if not isinstance(turns, list) or not turns:
        raise BadRow("no list of turns under 'conversation'")
    reply = {"role": "assistant", "content": _text(row, "generated_message")}
    return {"id": row.get("id"), "messages": [turns[0], reply]}


def options_and_rationale(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """A problem with options to choose from, answered by a derivation."""
    prompt = f"{_text(row, 'Problem')}\n{_text(row, 'options')}"
    return question_and_answer(row, prompt, _text(row, "Rationale"))


def multiple_choice(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """A question with four choices, in an order derived from the question so that every run has
    the same; the answer is the correct choice, after its supporting text if there is one."""
    question, correct = _text(row, "question"), _text(row, "correct_answer")
    choices = [correct, *(_text(row, f"distractor{number}") for number in (1, 2, 3))]
    seed = hashlib.sha256(question.encode("utf-8", "replace")).digest()
    random.Random(seed).shuffle(choices)  # noqa: S311 - not a secret
    choice_lines = [f"{letter}. {choice}" for letter, choice in zip("ABCD", choices, strict=True)]
    support = row.get("support")
    answer = f"{'ABCD'[choices.index(correct)]}. {correct}"
    if isinstance(support, str) and support.strip():
        answer = f"{support.strip()}\n\n{answer}"
    return question_and_answer(row, "\n".join([question, *choice_lines]), answer)


def question_and_answer(row: Mapping[str, Any], question: str, answer: str) -> Mapping[str, Any]:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"id": row.get("id"), "messages": messages}


def _text(row: Mapping[str, Any], column: str) -> str:
    value = row.get(column)
    if not isinstance(value, str):
        raise BadRow(f"no text in column {column!r}")
    return value


CONVERTERS: dict[str, Converter] = {
    "turns": as_it_is,
    "turns, id in uuid": partial(turns_named, identity="uuid"),
    "turns, id in prompt_id": partial(turns_named, identity="prompt_id"),
    "conversation and generated_message": reply_beside,
    "question, answer": partial(pair, question="question", answer="answer"),
    "problem, solution": partial(pair, question="problem", answer="solution"),
    "instruction, output": partial(pair, question="instruction", answer="output"),
    "instruction, input, output": partial(
        pair, question="instruction", answer="output", context="input"
    ),
    "instruction, response": partial(pair, question="instruction", answer="response"),
    "input, output": partial(pair, question="input", answer="output"),
    "message_1, message_2": partial(pair, question="message_1", answer="message_2"),
    "Problem, options, Rationale": options_and_rationale,
    "question, choices, support": multiple_choice,
}
