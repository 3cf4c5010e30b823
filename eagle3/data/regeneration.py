"""Answers that the target writes itself, turn by turn, so that the draft learns what it will meet.

For each conversation, the target answers the first question, then the next one with its own answer
before it, and so on. No conversation waits for another: its next turn is requested as soon as the
answer before it arrives, so no server idles until the longest answer of a turn has come. Every
answer is recorded as soon as it arrives, under the row's id and the turn, so a killed job asks for
nothing twice.

An answer that was cut off is never kept as if it were whole: the conversation ends with it, and it
is trained up to the cut. A row without an answer is dropped and counted. A call of a tool whose
result the dataset has stays as it is, as context that is not trained: another call would have had
another result.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from eagle3.data.answer_record import Answer, Generate, Record, Request
from eagle3.data.conversations import BadRow, Conversation, Message
from eagle3.errors import UserError
from eagle3.files.artifact import (
    REMAKE,
    Manifest,
    Settings,
    part_of,
    read_json,
    write_json,
    write_text,
)

KIND = "answers"
CUT = "answer cut off at max_tokens"
LISTED = 100  # dropped rows named one by one in the report
FIRST = 8  # conversations whose first answers are checked


@dataclass
class Outcome:
    """The rows of a shard, and what became of them."""

    rows: list[Conversation] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    dropped: list[dict[str, str]] = field(default_factory=list)


@dataclass
class _Chat:
    """A conversation under way."""

    original: Conversation
    messages: list[Message]
    place: int = 0  # of the next given message
    cause: str | None = None
    kept: int = 0  # calls of tools that stay as the dataset has them
    complete: int = 0  # the messages up to the last new answer
    cut: bool = False  # that answer would have gone on

    def to_the_next_answer(self) -> bool:
        """Take over the messages of others. Returns whether an answer is wanted next."""
        if self.original.text is not None:
            self.cause = "a rendered text has no turns to answer"
        while self.place < len(self.original.messages):
            message = self.original.messages[self.place]
            if message["role"] == "assistant":
                if not message.get("tool_calls"):
                    return True
                if not self._has_result():
                    self.cause = "tool calls cannot be regenerated"
                    return False
                self.kept += 1
                message = {**message, "train": False}  # the target has not written it
            self.messages.append(message)
            self.place += 1
        return False

    def _has_result(self) -> bool:
        """Whether the dataset continues after a call, with an answer to its result."""
        behind = (m["role"] for m in self.original.messages[self.place + 1 :])
        return next(behind, None) == "tool"

    @property
    def begun(self) -> bool:
        """Whether the first answer is there, or there will be none."""
        return self.complete > 0 or self.cause is not None

    def answered(self, answer: Answer) -> None:
        if answer.cause is not None:
            self.cause = answer.cause
            return
        if answer.cut:
            self.cause, self.cut = CUT, True
        message: Message = {"role": "assistant", "content": answer.content}
        if answer.reasoning:
            message["reasoning_content"] = answer.reasoning
        self.messages.append(message)
        self.place += 1
        self.complete = len(self.messages)

    def answered_part(self) -> Conversation | None:
        """The conversation up to the last new answer; None if there is none."""
        if not self.complete:
            return None
        return replace(self.original, messages=self.messages[: self.complete], cut=self.cut)


def regenerate(
    conversations: Iterable[Conversation],
    generate: Generate,
    seed: int,
    record: Record,
    check: Callable[[Conversation], object],
) -> Outcome:
    """The same conversations, in the same order, with answers of `generate`.

    `check` raises BadRow for a conversation that training could not use: the first answers are
    shown to it as soon as they are there. Raises UserError if it refuses most of them.
    """
    chats = [_Chat(conversation, []) for conversation in conversations]
    requests: list[Request] = []
    asking: list[_Chat] = []

    def go_on(chat: _Chat) -> None:
        """Up to an answer that the record does not have."""
        while chat.cause is None and chat.to_the_next_answer():
            known = record.known(chat.original.id, chat.place)
            if known is None:
                requests.append(_request(chat, seed))
                asking.append(chat)
                return
            chat.answered(known)

    waiting = [chat for chat in chats if chat.to_the_next_answer()]
    for chat in waiting:
        go_on(chat)
    unchecked = _unchecked(waiting[:FIRST], check)
    for number, answer in generate(requests) if requests else ():
        chat = asking[number]
        record.add(chat.original.id, chat.place, answer)
        chat.answered(answer)
        go_on(chat)
        unchecked = _unchecked(unchecked, check)
    return _outcome(chats)


def _unchecked(chats: list[_Chat], check: Callable[[Conversation], object]) -> list[_Chat]:
    """Those whose first answers are to be checked: all of them, until all are there; then none.

    Raises UserError if most are unusable, before many more are requested in vain.
    """
    if not all(chat.begun for chat in chats):
        return chats
    faults: list[BadRow] = []
    answered = [part for part in (chat.answered_part() for chat in chats) if part is not None]
    for conversation in answered:
        try:
            check(conversation)
        except BadRow as fault:
            faults.append(fault)
    if len(faults) * 2 > len(answered):
        first = faults[0]
        remedy = first.remedy or (
            "ask the servers with the tokens.chat_template_options that training has, and start "
            "them with the reasoning parser of the model"
        )
        raise UserError(
            f"dataset.regenerate: {len(faults)} of the first {len(answered)} answers would be "
            f"refused in training ({first}: {first.detail}); {remedy}"
        )
    return []


def _outcome(chats: Sequence[_Chat]) -> Outcome:
    outcome = Outcome()
    for chat in chats:
        part = chat.answered_part()
        if chat.kept:
            outcome.counts["call of a tool kept as the dataset has it, not trained"] += chat.kept
        if part is not None:
            outcome.rows.append(part)
        if chat.cause is not None:
            what = "trained up to there" if chat.cut else "shortened"
            if part is None:
                what = "dropped"
                outcome.dropped.append({"id": chat.original.id, "cause": chat.cause})
            outcome.counts[f"{chat.cause}: {what}"] += 1
    return outcome


def _request(chat: _Chat, seed: int) -> Request:
    own = f"{seed} {chat.place} {chat.original.id}".encode("utf-8", "surrogatepass")
    number = int.from_bytes(hashlib.sha256(own).digest()[:4], "big") >> 1  # servers want 31 bits
    original = chat.original
    return Request(original.id, list(chat.messages), original.tools, number, original.options)


def write_answers(
    path: Path, report: Path, outcome: Outcome, settings: Settings, inputs: dict[str, str]
) -> dict[str, Any]:
    """Write the rows of a shard as lines, and the report that vouches for them; return it."""
    text = "".join(row.to_json() + "\n" for row in outcome.rows)
    write_text(path, text)
    checksum = hashlib.sha256(text.encode()).hexdigest()
    summary = {
        "rows": len(outcome.rows),
        "incomplete": dict(outcome.counts.most_common()),
        "first_dropped": outcome.dropped[:LISTED],
    }
    inputs, counts = {**inputs, "answers": checksum}, {"rows": summary["rows"]}
    manifest = Manifest.of(KIND, settings, inputs, counts, part_of(report))
    write_json(report, summary, manifest)
    return summary


def read_answers(path: Path, report: Path, settings_digest: str) -> tuple[list[Conversation], str]:
    """The rows of a shard and their checksum.

    Raises UserError if they are damaged or of other settings.
    """
    _, manifest = read_json(report, KIND, settings_digest, part_of(report))
    try:
        data = path.read_bytes()
    except OSError as fault:
        raise UserError(f"{path}: {fault.strerror}") from None
    checksum = manifest.inputs["answers"]
    if hashlib.sha256(data).hexdigest() != checksum:
        raise UserError(f"{path}: is not what {report.name} was written for: {REMAKE}")
    return [Conversation.from_json(line) for line in data.splitlines()], checksum
