"""Wordings shared by the demo skills: several ways to ask for, and to introduce, one thing."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import NamedTuple


class Exchange(NamedTuple):
    """One question of the human and the assistant's answer to it."""

    human: str
    assistant: str


_REQUESTS = (
    "{Clause}.", "Please {clause}.", "Could you {clause}?", "Can you {clause}, please?",
    "I would like you to {clause}.", "Hi! Could you {clause}?", "Hello, please {clause}.",
    "Would you please {clause}?", "I need some help. Please {clause}.",
)  # fmt: skip
_FOLLOW_UPS = (
    "Now {clause}.", "Please {clause}.", "Can you {clause}?", "Thanks. Could you {clause}?",
    "Good. Now {clause}.", "And now {clause}, please.", "Great, now {clause}.", "OK, {clause}.",
)  # fmt: skip
_QUESTIONS = (
    "{Question}", "{Question}", "Quick question: {question}", "Hello! {Question}",
    "I have a question. {Question}", "Can you tell me? {Question}", "Hi, {question}",
)  # fmt: skip
_THEN = (
    "And {question}", "{Question}", "OK. {Question}", "Thanks! {Question}", "I see. {Question}",
)  # fmt: skip
_LEADS = ("", "", "", "Sure. ", "Of course. ", "Certainly. ")
_BLOCK_LEADS = ("", "", "Sure:\n\n", "Here it is:\n\n", "Of course. Here it is:\n\n")
_GREETINGS = ("Hi! ", "Hi, ", "Hello! ", "Hello, ", "Quick question: ", "I have a question. ")
_CHANGES = ("Now something else. ", "Another question. ", "One more thing. ", "A different topic. ")


def say(rng: Random, options: Sequence[str], **slots: object) -> str:
    """One of the wordings with its slots filled."""
    return rng.choice(options).format(**slots)


def capital(text: str) -> str:
    """The text with a capital first letter, the rest untouched."""
    return text[:1].upper() + text[1:]


def article(noun: str) -> str:
    """The noun after "a" or "an"."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def listing(items: Sequence[object]) -> str:
    """Items as English prose: "a, b and c"."""
    words = [str(item) for item in items]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def numbered(lines: Sequence[str]) -> str:
    """Lines as a numbered list."""
    return "\n".join(f"{number}. {line}" for number, line in enumerate(lines, 1))


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def money(cents: int) -> str:
    """An amount in euros; whole euros without decimals."""
    return f"€{cents // 100}" if cents % 100 == 0 else f"€{cents / 100:.2f}"


def request(rng: Random, clause: str) -> str:
    """An opening request around a clause such as "sort these words: b, a"."""
    return say(rng, _REQUESTS, clause=clause, Clause=capital(clause))


def again(rng: Random, clause: str) -> str:
    """A follow-up request that leans on the answer before it."""
    return say(rng, _FOLLOW_UPS, clause=clause, Clause=capital(clause))


def question(rng: Random, text: str) -> str:
    """An opening question; text starts in lower case and ends with a question mark."""
    return say(rng, _QUESTIONS, question=text, Question=capital(text))


def then(rng: Random, text: str) -> str:
    """A follow-up question."""
    return say(rng, _THEN, question=text, Question=capital(text))


def lead(rng: Random, text: str) -> str:
    """A reply to a request, now and then after a short opener."""
    return rng.choice(_BLOCK_LEADS if "\n" in text else _LEADS) + text


def change_topic(rng: Random, opening: str) -> str:
    """An opening as the human says it in the middle of a conversation, without the greeting."""
    for greeting in _GREETINGS:
        opening = capital(opening.removeprefix(greeting))
    return rng.choice(_CHANGES) + opening


def some(rng: Random, exchanges: Sequence[Exchange], low: int = 1, high: int = 3) -> list[Exchange]:
    """Between low and high of the exchanges, in their order."""
    count = min(rng.randint(low, high), len(exchanges))
    return [exchanges[index] for index in sorted(rng.sample(range(len(exchanges)), count))]
