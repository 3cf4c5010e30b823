"""Prompts to measure on, from rows in the formats of common benchmarks.

conversations / messages   a chat up to its last answer, as in `conversations`, or all of it
prompt, with messages      the same chat, as TRL names it
turns, or a list prompt    MT-bench, Arena-Hard: each turn follows the answer to the previous one
prompt                     HumanEval
question                   GSM8K
problem                    MATH-500, AIME
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

IDS = ("id", "question_id", "task_id", "unique_id", "conversation_id")
OPEN = ("user", "tool")  # roles of a message that awaits an answer
SUMMARISE = "Summarize the following article.\n\n"


@dataclass(frozen=True)
class Question:
    """A prompt: the messages before the answer, and the user turns after it."""

    id: str
    messages: list[Message]
    later: tuple[str, ...] = ()
    tools: Any = None
    text: str | None = None  # already rendered, with its last answer
    options: dict[str, Any] | None = None  # for the template, in addition to the configuration's
    tokens: list[int] | None = None  # already rendered and tokenised, up to the answer

    @classmethod
    def of(cls, conversation: Conversation) -> Question:
        """A conversation up to its last answer."""
        before, text = conversation.messages[:-1], conversation.text
        tools, options = conversation.tools, conversation.options
        return cls(conversation.id, before, (), tools, text, options)


QuestionRows = Iterable[Question | Unreadable]


def questions(rows: Iterable[Any]) -> Iterator[Question | Unreadable]:
    """The questions of rows, in order; `Unreadable` for a row of unknown shape."""
    for number, row in enumerate(rows, start=1):
        if isinstance(row, Unreadable):
            yield row
            continue
        try:
            yield _question(row, number)
        except BadRow as fault:
            yield Unreadable(str(fault))


def first_prompts(
    rows: QuestionRows, limit: int, encode: Callable[[Question], list[int]]
) -> tuple[list[tuple[Question, list[int]]], Counter[str]]:
    """The first `limit` questions with their tokens, and how many rows were skipped, by cause.
    `encode` raises BadRow for a question that cannot be a prompt."""
    prompts: list[tuple[Question, list[int]]] = []
    skipped: Counter[str] = Counter()
    for question in rows:
        if len(prompts) == limit:
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
    prompt = row.get("prompt")
    if isinstance(prompt, list) and prompt and all(_has_role(message) for message in prompt):
        row = {"messages": prompt, **row}
    if row.get("conversations") is not None or row.get("messages") is not None:
        return Question.of(parse_row(_with_answer(row))[0])
    identity = next((row[name] for name in IDS if row.get(name) is not None), number)
    first_turn, *later_turns = _turns(row)
    return Question(str(identity), [{"role": "user", "content": first_turn}], tuple(later_turns))


def _with_answer(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """The row, with a placeholder answer if its last question is open."""
    name = "conversations" if row.get("conversations") is not None else "messages"
    turns = row[name]
    last = turns[-1] if isinstance(turns, list) and turns else None
    role = first(last, "from", "role") if isinstance(last, Mapping) else None
    if isinstance(role, str) and ROLES.get(role.lower()) in OPEN:
        return {**row, name: [*turns, {"role": "assistant", "content": "…"}]}
    return row


def _turns(row: Mapping[str, Any]) -> list[str]:
    """The texts of the user, turn by turn."""
    for name in ("turns", "prompt"):
        turns = row.get(name)
        if isinstance(turns, list):  # Arena-Hard: objects with a text
            turns = [turn.get("content") if isinstance(turn, Mapping) else turn for turn in turns]
        if isinstance(turns, list) and turns and all(_is_text(turn) for turn in turns):
            return turns
    for name in ("prompt", "question", "problem"):
        if _is_text(row.get(name)):
            return [row[name]]
    if _is_text(row.get("instruction")):
        context = row.get("input")
        return [f"{row['instruction']}\n\n{context}" if _is_text(context) else row["instruction"]]
    if _is_text(row.get("article")):
        return [SUMMARISE + row["article"]]
    raise BadRow(
        "no conversations, messages, turns, prompt, question, problem, instruction or article in "
        "the row"
    )


def _has_role(message: Any) -> bool:
    return isinstance(message, Mapping) and "role" in message


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())
