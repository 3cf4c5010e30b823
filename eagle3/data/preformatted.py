"""Texts that have been rendered already: where their answers are.

    ...<user>Hi<end><assistant>Hello!<end>\n
                    header     answer with its end

The header is what the tokenizer's own template ends a prompt with, so a text of another template
has none and is refused. A message that holds a header cannot be distinguished from an answer here,
so turns are better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from eagle3.data.conversations import BadRow
from eagle3.data.thoughts import EMPTY_THOUGHTS, OPENED, REST_OF_THOUGHTS


@dataclass(frozen=True)
class Marks:
    """The marks around an answer."""

    header: str  # ends a prompt, maybe with a thought that it opens
    ends: Sequence[str]
    inside: Sequence[str] = ()  # ends of parts: after one of them and a header, the answer goes on
    next_turn_ends: bool = False  # so the last answer has no mark

    @property
    def bare(self) -> str:
        """The header without the thought that it opens."""
        candidates = [self.header.removesuffix(opened) for opened in OPENED]
        return min(candidates, key=len)


def answers_of(text: str, marks: Marks) -> list[tuple[int, int]]:
    """Characters of each answer with the mark that ends it.

    Raises BadRow if there is no answer, or one that does not end.
    """
    spans, place = [], 0
    while (header := text.find(marks.bare, place)) >= 0:
        start = _behind_thoughts(text, header + len(marks.bare), marks)
        place = _end(text, start, marks)
        spans.append((start, place))
    if not spans:
        raise BadRow(f"the text has no answer after {marks.bare!r}, as the template writes it")
    return spans


def _behind_thoughts(text: str, start: int, marks: Marks) -> int:
    """Where the target begins: after a thought that is opened for it or left empty."""
    opened = marks.header[len(marks.bare) :]
    if opened and text.startswith(opened, start):
        start += len(opened)
    empty = REST_OF_THOUGHTS if opened in ("<think>\n", "<think>") else EMPTY_THOUGHTS
    return start + next((len(mark) for mark in empty if text.startswith(mark, start)), 0)


def _end(text: str, start: int, marks: Marks) -> int:
    """The end of the first mark that ends the answer."""
    while True:
        hits = [(text.find(end, start), end) for end in marks.ends]
        place, end = min(((at, end) for at, end in hits if at >= 0), default=(-1, ""))
        if place < 0 and marks.next_turn_ends:
            return len(text)
        if place < 0:
            raise BadRow("an answer of the text has no mark that ends it")
        start = place + len(end)
        if end not in marks.inside or not text.startswith(marks.bare, start):
            return start
