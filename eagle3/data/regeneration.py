"""Answers that the target writes itself, turn by turn, so that the draft trains on them.

For each conversation, the target answers the first question, then the next one with its own answer
before it, and so on. No conversation waits for another: its next turn is requested as soon as the
previous answer arrives, so no server idles until the longest answer of a turn is there. Every
answer is recorded on arrival, under the row's id and the turn, so a killed job requests nothing
twice.

An answer that was cut off is never treated as complete: the conversation ends with it, and it is
trained up to the cut. A row without an answer is dropped and counted. A tool call whose result the
dataset has stays as it is, as context that is not trained: another call would have had another
result.
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
LISTED = 100  # dropped rows listed in the report
FIRST = 8  # conversations whose first answers are checked early


@dataclass
class Outcome:
    """The answered rows of a shard, and what happened to the others."""

    rows: list[Conversation] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    dropped: list[dict[str, str]] = field(default_factory=list)


@dataclass
class _Chat:
    """A conversation that is being answered."""

    original: Conversation
    messages: list[Message]
    position: int = 0  # of the next message of the dataset
    cause: str | None = None
    kept: int = 0  # tool calls that stay as the dataset has them
    answered_length: int = 0  # messages up to and including the last new answer
    cut: bool = False  # whether that answer was cut off

    def advance(self) -> bool:
        """Copy messages up to the next answer. Returns whether there is one to be requested."""
        if self.original.text is not None:
            self.cause = "a rendered text has no turns to answer"
        while self.position < len(self.original.messages):
            message = self.original.messages[self.position]
            if message["role"] == "assistant":
                if not message.get("tool_calls"):
                    return True
                if not self._has_result():
                    self.cause = "tool calls cannot be regenerated"
                    return False
                self.kept += 1
                message = {**message, "train": False}  # the target did not write it
            self.messages.append(message)
            self.position += 1
        return False

    def _has_result(self) -> bool:
        """Whether the dataset has the result of the call at `position`."""
        later_roles = (m["role"] for m in self.original.messages[self.position + 1 :])
        return next(later_roles, None) == "tool"

    @property
    def first_answer_settled(self) -> bool:
        """Whether the first answer has arrived, or none will."""
        return self.answered_length > 0 or self.cause is not None

    def add_answer(self, answer: Answer) -> None:
        if answer.cause is not None:
            self.cause = answer.cause
            return
        if answer.cut:
            self.cause, self.cut = CUT, True
        message: Message = {"role": "assistant", "content": answer.content}
        if answer.reasoning:
            message["reasoning_content"] = answer.reasoning
        self.messages.append(message)
        self.position += 1
        self.answered_length = len(self.messages)

    def answered_part(self) -> Conversation | None:
        """The conversation up to the last new answer; None if there is none."""
        if not self.answered_length:
            return None
        return replace(self.original, messages=self.messages[: self.answered_length], cut=self.cut)


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
    chat_of: list[_Chat] = []

    def request_next(chat: _Chat) -> None:
        """Request the chat's next answer that the record does not have."""
        while chat.cause is None and chat.advance():
            recorded = record.known(chat.original.id, chat.position)
            if recorded is None:
                requests.append(_request(chat, seed))
                chat_of.append(chat)
                return
            chat.add_answer(recorded)

    waiting = [chat for chat in chats if chat.advance()]
    for chat in waiting:
        request_next(chat)
    unchecked = _unchecked(waiting[:FIRST], check)
    for number, answer in generate(requests) if requests else ():
        chat = chat_of[number]
        record.add(chat.original.id, chat.position, answer)
        chat.add_answer(answer)
        request_next(chat)
        unchecked = _unchecked(unchecked, check)
    return _outcome(chats)


def _unchecked(chats: list[_Chat], check: Callable[[Conversation], object]) -> list[_Chat]:
    """The chats whose first answers are still to be checked: all until the last one arrives.

    Raises UserError if most are unusable, before many more are requested in vain.
    """
    if not all(chat.first_answer_settled for chat in chats):
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
            fate = "trained up to there" if chat.cut else "shortened"
            if part is None:
                fate = "dropped"
                outcome.dropped.append({"id": chat.original.id, "cause": chat.cause})
            outcome.counts[f"{chat.cause}: {fate}"] += 1
    return outcome


def _request(chat: _Chat, seed: int) -> Request:
    key = f"{seed} {chat.position} {chat.original.id}".encode("utf-8", "surrogatepass")
    number = int.from_bytes(hashlib.sha256(key).digest()[:4], "big") >> 1  # servers want 31 bits
    original = chat.original
    return Request(original.id, list(chat.messages), original.tools, number, original.options)


def write_answers(
    path: Path, report: Path, outcome: Outcome, settings: Settings, inputs: dict[str, str]
) -> dict[str, Any]:
    """Write the rows of a shard, one per line, and their report with its manifest; return it."""
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
