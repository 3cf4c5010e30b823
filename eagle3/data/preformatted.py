"""Where the answers are in texts that came rendered.

    ...<user>Hi<end><assistant>Hello!<end>\n
                    header     answer with its end

The header is the end of a prompt in the tokenizer's own template, so a text of another template has
none and is refused. A message that contains a header cannot be told from an answer, so rows with
turns are preferable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from eagle3.data.conversations import BadRow
from eagle3.data.thoughts import EMPTY_THOUGHTS, OPENED, REST_OF_THOUGHTS


@dataclass(frozen=True)
class Marks:
    """The marks around an answer."""

    header: str  # end of a prompt, maybe with a thought that it opens
    ends: Sequence[str]
    inside: Sequence[str] = ()  # ends of parts: after one of them and a header, the answer goes on
    next_turn_ends: bool = False  # the last answer then has no mark

    @property
    def bare(self) -> str:
        """The header without the thought that it opens."""
        candidates = [self.header.removesuffix(opened) for opened in OPENED]
        return min(candidates, key=len)


def answers_of(text: str, marks: Marks) -> list[tuple[int, int]]:
    """The span of each answer, including the mark that ends it.

    Raises BadRow if there is no answer, or one that does not end.
    """
    spans, end = [], 0
    while (header := text.find(marks.bare, end)) >= 0:
        start = _after_empty_thought(text, header + len(marks.bare), marks)
        end = _end(text, start, marks)
        spans.append((start, end))
    if not spans:
        raise BadRow(f"the text has no answer after {marks.bare!r}, as the template writes it")
    return spans


def _after_empty_thought(text: str, start: int, marks: Marks) -> int:
    """Where the target began to write: after a thought that the prompt opened or left empty."""
    opened = marks.header[len(marks.bare) :]
    if opened and text.startswith(opened, start):
        start += len(opened)
    empty = REST_OF_THOUGHTS if opened in ("<think>\n", "<think>") else EMPTY_THOUGHTS
    return start + next((len(mark) for mark in empty if text.startswith(mark, start)), 0)


def _end(text: str, start: int, marks: Marks) -> int:
    """The end of the first mark that ends the answer."""
    while True:
        hits = [(text.find(end, start), end) for end in marks.ends]
        first, end = min(((at, end) for at, end in hits if at >= 0), default=(-1, ""))
        if first < 0 and marks.next_turn_ends:
            return len(text)
        if first < 0:
            raise BadRow("an answer of the text has no mark that ends it")
        start = first + len(end)
        if end not in marks.inside or not text.startswith(marks.bare, start):
            return start
