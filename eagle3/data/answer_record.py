"""Questions to the target, its answers, and the file that keeps them as they come."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

from eagle3.data.messages import Message
from eagle3.files.artifact import NOT_OURS
from eagle3.files.lock import hold


@dataclass(frozen=True)
class Request:
    """A conversation that waits for an answer."""

    id: str
    messages: list[Message]
    tools: Any
    seed: int  # of this answer: a function of the settings, the row and the turn
    options: dict[str, Any] | None = None  # for the template, in addition to the configuration's


@dataclass(frozen=True)
class Answer:
    """What came back."""

    content: str = ""
    reasoning: str | None = None
    cause: str | None = None  # why there is none
    cut: bool = False  # max_tokens ended it: the target would have gone on


def whole_characters(text: str, cut: bool) -> str:
    """A text without the part of a character that `max_tokens` left of its last one."""
    return text.rstrip("\ufffd") if cut else text


# Answers to requests as they arrive: the number of each, and the answer. The caller may append
# requests after each answer; they are answered too.
Generate = Callable[[Sequence[Request]], Iterator[tuple[int, Answer]]]


class Record:
    """Answers of a shard on disk, one per line, as they come."""

    def __init__(self, out: TextIO, answers: dict[tuple[str, int], Answer]) -> None:
        self._out, self._answers = out, answers

    def known(self, row: str, turn: int) -> Answer | None:
        return self._answers.get((row, turn))

    def add(self, row: str, turn: int, answer: Answer) -> None:
        line = {"id": row, "turn": turn, **asdict(answer)}
        self._out.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._out.flush()

    @classmethod
    @contextmanager
    def opened(cls, path: Path, identity: str) -> Iterator[Record]:
        """The record at `path`. It starts empty unless it has the same `identity` (settings, rows).

        Raises UserError if another process holds it.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a+", encoding="utf-8") as out:
            hold(out, f"{path}: another process is answering this shard; wait for it or stop it")
            out.seek(0)
            begun = json.dumps({"identity": identity}) + "\n"
            try:
                lines = out.readlines()
            except UnicodeDecodeError:
                lines = []
            kept = {line: _answer(line) for line in lines[1:]} if lines[:1] == [begun] else {}
            known = {line: answer for line, answer in kept.items() if answer is not None}
            whole = [begun, *known]
            # what is right stays as it is: on a full disk it could not be written again
            right = next(
                (n for n, (line, own) in enumerate(zip(lines, whole, strict=False)) if line != own),
                min(len(lines), len(whole)),
            )
            out.truncate(len("".join(whole[:right]).encode()))
            out.writelines(whole[right:])
            out.flush()
            yield cls(out, dict(known.values()))


def _answer(line: str) -> tuple[tuple[str, int], Answer] | None:
    """An answer of the record; None for a line that a kill or a power cut has spoilt."""
    try:
        entry = json.loads(line)
        key = str(entry.pop("id")), int(entry.pop("turn"))
        answer = Answer(**entry)
        return (key, answer) if line.endswith("\n") and isinstance(answer.content, str) else None
    except NOT_OURS:
        return None
