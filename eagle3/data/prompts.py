"""Sets of prompts to measure on, in the shapes that benchmarks come in.

conversations / messages   a chat up to its last answer, as in `conversations`, or to its open end
turns, or a list prompt    MT-bench: each turn follows the answer to the one before
prompt                     HumanEval
question                   GSM8K
instruction, input         Alpaca
article                    CNN/DailyMail: to be summarised
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from eagle3.data.conversations import BadRow, Conversation, Message, parse_row
from eagle3.data.messages import ROLES, first
from eagle3.data.row_files import Unreadable

IDS = ("id", "question_id", "task_id", "conversation_id")
OPEN = ("user", "tool")  # who waits for an answer
SUMMARISE = "Summarize the following article.\n\n"


@dataclass(frozen=True)
class Question:
    """A prompt: the messages before the answer, and user turns that follow after answers."""

    id: str
    messages: list[Message]
    later: tuple[str, ...] = ()
    tools: Any = None
    text: str | None = None  # rendered already, with its last answer
    options: dict[str, Any] | None = None  # for the template, in addition to the configuration's
    tokens: list[int] | None = None  # rendered and tokenised already, up to the answer

    @classmethod
    def of(cls, conversation: Conversation) -> Question:
        """A conversation up to its last answer."""
        before, text = conversation.messages[:-1], conversation.text
        tools, options = conversation.tools, conversation.options
        return cls(conversation.id, before, (), tools, text, options)


QuestionRows = Iterable[Question | Unreadable]


def questions(rows: Iterable[Any]) -> Iterator[Question | Unreadable]:
    """What rows ask, in order; those of no known shape come as `Unreadable`."""
    for number, row in enumerate(rows, start=1):
        if isinstance(row, Unreadable):
            yield row
            continue
        try:
            yield _question(row, number)
        except BadRow as fault:
            yield Unreadable(str(fault))


def first_prompts(
    rows: QuestionRows, most: int, encode: Callable[[Question], list[int]]
) -> tuple[list[tuple[Question, list[int]]], Counter[str]]:
    """The first `most` questions with their tokens, and how many rows were passed over, by cause.
    `encode` raises BadRow for a question that cannot be a prompt."""
    prompts: list[tuple[Question, list[int]]] = []
    skipped: Counter[str] = Counter()
    for question in rows:
        if len(prompts) == most:
            break
        if isinstance(question, Unreadable):
            skipped[question.cause] += 1
            continue
        try:
            prompts.append((question, encode(question)))
        except BadRow as fault:
            skipped[str(fault)] += 1
    return prompts, skipped


def _question(row: Any, number: int) -> Question:
    if not isinstance(row, Mapping):
        raise BadRow("row is not an object")
    if row.get("conversations") is not None or row.get("messages") is not None:
        return Question.of(parse_row(_answered(row))[0])
    identity = next((row[name] for name in IDS if row.get(name) is not None), number)
    now, *later = _turns(row)
    return Question(str(identity), [{"role": "user", "content": now}], tuple(later))


def _answered(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """A chat whose last question is open, with a placeholder for the answer."""
    name = "conversations" if row.get("conversations") is not None else "messages"
    turns = row[name]
    last = turns[-1] if isinstance(turns, list) and turns else None
    who = first(last, "from", "role") if isinstance(last, Mapping) else None
    if isinstance(who, str) and ROLES.get(who.lower()) in OPEN:
        return {**row, name: [*turns, {"role": "assistant", "content": "…"}]}
    return row


def _turns(row: Mapping[str, Any]) -> list[str]:
    """What the user says, turn by turn."""
    for name in ("turns", "prompt"):
        turns = row.get(name)
        if isinstance(turns, list) and turns and all(_is_text(turn) for turn in turns):
            return turns
    for name in ("prompt", "question"):
        if _is_text(row.get(name)):
            return [row[name]]
    if _is_text(row.get("instruction")):
        more = row.get("input")
        return [f"{row['instruction']}\n\n{more}" if _is_text(more) else row["instruction"]]
    if _is_text(row.get("article")):
        return [SUMMARISE + row["article"]]
    raise BadRow(
        "no conversations, messages, turns, prompt, question, instruction or article in the row"
    )


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())
