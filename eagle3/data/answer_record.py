"""Requests to the target, its answers, and the file that records them as they arrive."""

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
    """An answer, or why there is none."""

    content: str = ""
    reasoning: str | None = None
    cause: str | None = None  # of a missing answer
    cut: bool = False  # ended by max_tokens: the target would have continued


def whole_characters(text: str, cut: bool) -> str:
    """The text without an incomplete last character, which `max_tokens` may have left."""
    return text.rstrip("\ufffd") if cut else text


# Yields the number of a request and its answer, as answers arrive. The caller may append requests
# after each answer; they are answered too.
Generate = Callable[[Sequence[Request]], Iterator[tuple[int, Answer]]]


class Record:
    """Answers of a shard on disk, one per line, in order of arrival."""

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
            header = json.dumps({"identity": identity}) + "\n"
            try:
                lines = out.readlines()
            except UnicodeDecodeError:
                lines = []
            parsed = {line: _answer(line) for line in lines[1:]} if lines[:1] == [header] else {}
            valid = {line: answer for line, answer in parsed.items() if answer is not None}
            content = [header, *valid]
            # valid lines stay in place: a full disk could not take them again
            intact = next(
                (n for n, (old, new) in enumerate(zip(lines, content, strict=False)) if old != new),
                min(len(lines), len(content)),
            )
            out.truncate(len("".join(content[:intact]).encode()))
            out.writelines(content[intact:])
            out.flush()
            yield cls(out, dict(valid.values()))


def _answer(line: str) -> tuple[tuple[str, int], Answer] | None:
    """An answer of the record; None for a line that a kill or a power cut damaged."""
    try:
        entry = json.loads(line)
        key = str(entry.pop("id")), int(entry.pop("turn"))
        answer = Answer(**entry)
        return (key, answer) if line.endswith("\n") and isinstance(answer.content, str) else None
    except NOT_OURS:
        return None
