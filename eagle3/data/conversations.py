"""One conversation: read from the shapes people have, refused with a cause, never half read.

Understood rows: ShareGPT (`conversations` of `from`/`value`) and OpenAI style (`messages` or
`conversations` of `role`/`content`), with an optional `id` and an optional `tools` column (a list
of JSON schemas, or the JSON text of one). A key that holds null counts as absent: tables on the
hub have every column in every row.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "system": "system",
}
# parts of an answer beside its text: without them the target would never have said the text
BESIDE_TEXT = ("tool_calls", "function_call", "reasoning_content")


class BadRow(Exception):
    """A row that cannot be used; the text is the cause it is counted under."""


@dataclass(frozen=True)
class Conversation:
    """A valid conversation: optional system message, then user and assistant in turn."""

    id: str
    messages: list[dict[str, str]]
    tools: Any = None

    def to_json(self) -> str:
        row: dict[str, Any] = {"id": self.id, "conversations": self.messages}
        if self.tools:
            row["tools"] = self.tools
        return json.dumps(row, ensure_ascii=False)

    @classmethod
    def from_json(cls, line: str | bytes) -> Conversation:
        row = json.loads(line)
        return cls(row["id"], row["conversations"], row.get("tools"))


def parse_row(row: Any) -> tuple[Conversation, list[str]]:
    """A conversation and the repairs it took (each a cause to be counted).

    Raises BadRow with a short cause; nothing of a refused row is used.
    """
    if not isinstance(row, Mapping):
        raise BadRow("row is not an object")
    turns = _first(row, "conversations", "messages")
    if not isinstance(turns, list) or not turns:
        raise BadRow("no list of turns under 'conversations' or 'messages'")
    messages, repairs = _alternating([_message(turn) for turn in turns])
    identity = _first(row, "id", "conversation_id")
    if identity is None or identity == "":
        identity = hashlib.sha256(json.dumps(messages).encode()).hexdigest()[:16]
    if not isinstance(identity, str | int):
        raise BadRow("id is neither text nor a number")
    return Conversation(_clean(str(identity)), messages, _tools(row.get("tools"))), repairs


def _first(mapping: Mapping[str, Any], *names: str) -> Any:
    """The value under the first name that holds one."""
    return next((mapping[name] for name in names if mapping.get(name) is not None), None)


def _tools(given: Any) -> list[dict[str, Any]] | None:
    """Tool descriptions as templates take them; None without any."""
    try:
        found = json.loads(given.strip() or "null") if isinstance(given, str) else given
        _clean(json.dumps(found, ensure_ascii=False))
    except (ValueError, TypeError, RecursionError):
        raise BadRow("tools are not JSON") from None
    if not found:
        return None
    if not isinstance(found, list) or not all(isinstance(tool, dict) for tool in found):
        raise BadRow("tools are not a list of objects")
    return found


def _message(turn: Any) -> dict[str, str]:
    """One turn as role and content."""
    if not isinstance(turn, Mapping):
        raise BadRow("turn is not an object")
    name, content = _first(turn, "from", "role"), _first(turn, "value", "content")
    role = ROLES.get(name.lower()) if isinstance(name, str) else None
    if role is None:
        raise BadRow(f"unknown role {str(name)[:40]!r}")
    if not isinstance(content, str):
        raise BadRow("content is not text")
    if not content.strip():
        raise BadRow("empty content")
    beside = next((part for part in BESIDE_TEXT if turn.get(part)), None)
    if beside:
        raise BadRow(f"turn carries {beside}")
    return {"role": role, "content": _clean(content)}


def _clean(text: str) -> str:
    """Refuse lone surrogates: they cannot be written as UTF-8."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise BadRow("text is not valid Unicode") from None
    return text


def _alternating(messages: list[dict[str, str]]) -> tuple[list[dict[str, str]], list[str]]:
    """Trim what no server could have seen, then insist on the order of a real chat."""
    system = messages[:1] if messages[0]["role"] == "system" else []
    turns, repairs = messages[len(system) :], []
    if turns and turns[0]["role"] == "assistant":
        turns = turns[1:]
        repairs.append("assistant turn before the first user turn left out")
    if turns and turns[-1]["role"] == "user":
        turns = turns[:-1]
        repairs.append("unanswered last user turn left out")
    if not turns:
        raise BadRow("no user turn with an answer")
    for position, turn in enumerate(turns):
        if turn["role"] != ("user", "assistant")[position % 2]:
            raise BadRow("turns do not alternate between user and assistant")
    return system + turns, repairs
