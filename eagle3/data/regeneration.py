"""Answers written anew by the target, turn by turn, so that the draft learns what it will meet.

All conversations of a shard go forward together: for each, the target answers the first question,
then the next one with its own answer before it, and so on. Every answer is recorded as soon as it
is there, under the row's id and the turn, so a killed job asks for nothing twice.

An answer that was cut off is never kept as if it were whole: the conversation ends before it, and a
row without one whole answer is dropped and counted.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TextIO

from eagle3.artifact import (
    NOT_OURS,
    REMAKE,
    Manifest,
    Settings,
    part_of,
    read_json,
    write_json,
    write_text,
)
from eagle3.data.conversations import Conversation, Message
from eagle3.errors import UserError

KIND = "answers"
LISTED = 100  # dropped rows named one by one in the report


@dataclass(frozen=True)
class Request:
    """A conversation that waits for an answer."""

    id: str
    messages: list[Message]
    tools: Any
    seed: int  # of this answer: a function of the settings, the row and the turn


@dataclass(frozen=True)
class Answer:
    """What came back."""

    content: str = ""
    reasoning: str | None = None
    cause: str | None = None  # why there is no whole answer


# Answers to some requests, as they come: the number of each, and the answer.
Engine = Callable[[Sequence[Request]], Iterator[tuple[int, Answer]]]


@dataclass
class Outcome:
    """The rows of a shard, and what became of them."""

    rows: list[Conversation] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    dropped: list[dict[str, str]] = field(default_factory=list)


@dataclass
class _Chat:
    """A conversation under way."""

    given: Conversation
    messages: list[Message]
    place: int = 0  # of the next given message
    cause: str | None = None

    def to_the_next_answer(self) -> bool:
        """Take over what others said; whether an answer is wanted."""
        if self.given.text is not None:
            self.cause = "a rendered text has no turns to answer anew"
        while self.place < len(self.given.messages):
            message = self.given.messages[self.place]
            if message["role"] == "assistant":
                if message.get("tool_calls"):
                    self.cause = "calls of tools cannot be made anew"
                    return False
                return True
            self.messages.append(message)
            self.place += 1
        return False

    def answered(self, answer: Answer) -> None:
        if answer.cause is not None:
            self.cause = answer.cause
            return
        message: Message = {"role": "assistant", "content": answer.content}
        if answer.reasoning:
            message["reasoning_content"] = answer.reasoning
        self.messages.append(message)
        self.place += 1

    def whole(self) -> Conversation | None:
        """What there is up to the last whole answer."""
        last = max((n for n, m in enumerate(self.messages) if m["role"] == "assistant"), default=-1)
        return replace(self.given, messages=self.messages[: last + 1]) if last >= 0 else None


def regenerate(
    conversations: Iterable[Conversation], engine: Engine, seed: int, record: Record
) -> Outcome:
    """The same conversations, in the same order, with answers of `engine`."""
    chats = [_Chat(conversation, []) for conversation in conversations]
    waiting = [chat for chat in chats if chat.to_the_next_answer()]
    while waiting:
        new = []
        for chat in waiting:
            known = record.known(chat.given.id, chat.place)
            if known is None:
                new.append(chat)
            else:
                chat.answered(known)
        requests = [_request(chat, seed) for chat in new]
        for number, answer in engine(requests) if requests else ():
            record.add(new[number].given.id, new[number].place, answer)
            new[number].answered(answer)
        waiting = [c for c in waiting if c.cause is None and c.to_the_next_answer()]
    outcome = Outcome()
    for chat in chats:
        whole = chat.whole()
        if whole is not None:
            outcome.rows.append(whole)
        if chat.cause is not None:
            outcome.counts[chat.cause + (": shortened" if whole else ": dropped")] += 1
            if whole is None:
                outcome.dropped.append({"id": chat.given.id, "cause": chat.cause})
    return outcome


def _request(chat: _Chat, seed: int) -> Request:
    own = f"{seed} {chat.place} {chat.given.id}".encode("utf-8", "surrogatepass")
    number = int.from_bytes(hashlib.sha256(own).digest()[:4], "big") >> 1  # servers want 31 bits
    return Request(chat.given.id, list(chat.messages), chat.given.tools, number)


def write_answers(
    path: Path, report: Path, outcome: Outcome, settings: Settings, inputs: dict[str, str]
) -> dict[str, Any]:
    """Write the rows of a shard as lines, and the report that vouches for them; return it."""
    text = "".join(row.to_json() + "\n" for row in outcome.rows)
    write_text(path, text)
    checksum = hashlib.sha256(text.encode()).hexdigest()
    found = {
        "rows": len(outcome.rows),
        "incomplete": dict(outcome.counts.most_common()),
        "first_dropped": outcome.dropped[:LISTED],
    }
    inputs, counts = {**inputs, "answers": checksum}, {"rows": found["rows"]}
    manifest = Manifest.of(KIND, settings, inputs, counts, part_of(report))
    write_json(report, found, manifest)
    return found


def read_answers(
    path: Path, report: Path, settings_digest: str | None = None
) -> tuple[list[Conversation], str]:
    """The rows of a shard and their checksum.

    Raises UserError if they are damaged or of other settings.
    """
    part = None if settings_digest is None else part_of(report)
    _, manifest = read_json(report, KIND, settings_digest, part)
    try:
        data = path.read_bytes()
    except OSError as fault:
        raise UserError(f"{path}: {fault.strerror}") from None
    checksum = manifest.inputs["answers"]
    if hashlib.sha256(data).hexdigest() != checksum:
        raise UserError(f"{path}: is not what {report.name} was written for: {REMAKE}")
    return [Conversation.from_json(line) for line in data.splitlines()], checksum


class Record:
    """Answers of a shard on disk, one a line, as they come."""

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
        """The record at `path`, begun anew unless it is of the same `identity` (settings, rows).

        Raises UserError if another process holds it.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a+", encoding="utf-8") as out:
            try:
                fcntl.flock(out, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(
                    f"{path}: another process answers this shard; wait for it or stop it"
                ) from None
            out.seek(0)
            begun = json.dumps({"identity": identity}) + "\n"
            try:
                lines = out.readlines()
            except UnicodeDecodeError:
                lines = []
            kept = {line: _answer(line) for line in lines[1:]} if lines[:1] == [begun] else {}
            known = {line: answer for line, answer in kept.items() if answer is not None}
            out.truncate(0)
            out.writelines([begun, *known])
            out.flush()
            yield cls(out, dict(known.values()))


def _answer(line: str) -> tuple[tuple[str, int], Answer] | None:
    """An answer of the record; None for a line that a kill or a power cut has spoilt."""
    try:
        found = json.loads(line)
        key = str(found.pop("id")), int(found.pop("turn"))
        answer = Answer(**found)
        return (key, answer) if line.endswith("\n") and isinstance(answer.content, str) else None
    except NOT_OURS:
        return None
