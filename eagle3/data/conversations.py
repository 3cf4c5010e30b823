"""One conversation: read from the shapes people have, refused with a cause, never half read.

Understood rows: ShareGPT (`conversations` of `from`/`value`) and OpenAI style (`messages` or
`conversations` of `role`/`content`), with an optional `id` and an optional `tools` column (a list
of JSON schemas, or the JSON text of one). A row without turns may have a `text` instead, rendered
by the target's template already. Answers may carry `tool_calls` and `reasoning_content`,
and results of tools come as messages of their own. A key that holds null counts as absent: tables
on the hub have every column in every row.
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
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
}
# who may speak after whom; an answer without calls is never followed by a tool
NEXT = {
    "user": ("assistant",),
    "assistant": ("user",),
    "calling": ("tool", "user"),
    "tool": ("tool", "assistant"),
}
Message = dict[str, Any]  # role, content, and what belongs to an answer beside its text


class BadRow(Exception):
    """A row that cannot be used; the text is the cause it is counted under."""

    def __init__(self, cause: str, detail: str = "", remedy: str = "") -> None:
        """`detail`: what differs in this row. `remedy`: what helps against the cause."""
        super().__init__(cause)
        self.detail, self.remedy = detail, remedy


@dataclass(frozen=True)
class Conversation:
    """A valid conversation: optional system message, then user and assistant in turn, with results
    of tools between an answer that calls them and the next one. Or a text instead of them."""

    id: str
    messages: list[Message]
    tools: Any = None
    text: str | None = None  # as a template has rendered it; there are no messages then
    options: dict[str, Any] | None = None  # for the template, beside the configuration's

    def to_json(self) -> str:
        if self.text is not None:
            return json.dumps({"id": self.id, "text": self.text}, ensure_ascii=False)
        row: dict[str, Any] = {"id": self.id, "conversations": self.messages}
        if self.tools:
            row["tools"] = self.tools
        return json.dumps(row, ensure_ascii=False)

    @classmethod
    def from_json(cls, line: str | bytes) -> Conversation:
        row = json.loads(line)
        return cls(row["id"], row.get("conversations", []), row.get("tools"), row.get("text"))


def parse_row(row: Any) -> tuple[Conversation, list[str]]:
    """A conversation and the repairs it took (each a cause to be counted).

    Raises BadRow with a short cause; nothing of a refused row is used.
    """
    if not isinstance(row, Mapping):
        raise BadRow("row is not an object")
    turns, text = _first(row, "conversations", "messages"), row.get("text")
    if turns is None and isinstance(text, str) and text.strip():
        return Conversation(_identity(row, text), [], None, _clean(text)), []
    if not isinstance(turns, list) or not turns:
        raise BadRow("no list of turns under 'conversations' or 'messages'")
    messages, repairs = _in_turn([_message(turn) for turn in turns])
    return Conversation(_identity(row, messages), messages, _tools(row.get("tools"))), repairs


def _identity(row: Mapping[str, Any], content: Any) -> str:
    """The row's id, or one that follows from its content."""
    identity = _first(row, "id", "conversation_id")
    if identity is None or identity == "":
        identity = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
    if not isinstance(identity, str | int):
        raise BadRow("id is neither text nor a number")
    return _clean(str(identity))


def _first(mapping: Mapping[str, Any], *names: str) -> Any:
    """The value under the first name that holds one."""
    return next((mapping[name] for name in names if mapping.get(name) is not None), None)


def _tools(given: Any) -> list[dict[str, Any]] | None:
    """Tool descriptions as templates take them; None without any."""
    try:
        found = given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)
    except (ValueError, TypeError, RecursionError):
        raise BadRow("tools are not JSON") from None
    tools = _json(found, "tools")
    if not tools:
        return None
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise BadRow("tools are not a list of objects")
    return tools


def _message(turn: Any) -> Message:
    """One turn as a message."""
    if not isinstance(turn, Mapping):
        raise BadRow("turn is not an object")
    name, content = _first(turn, "from", "role"), _first(turn, "value", "content")
    role = ROLES.get(name.lower()) if isinstance(name, str) else None
    if role is None:
        raise BadRow(f"unknown role {str(name)[:40]!r}")
    if turn.get("function_call"):
        raise BadRow("turn carries function_call, which templates no longer read: use tool_calls")
    beside = _beside_text(turn) if role in ("assistant", "tool") else {}
    if content is None and "tool_calls" in beside:
        content = ""
    if not isinstance(content, str):
        raise BadRow("content is not text")
    if not content.strip() and not beside.keys() & {"tool_calls", "reasoning_content"}:
        raise BadRow("empty content")
    return {"role": role, "content": _clean(content), **beside}


def _beside_text(turn: Mapping[str, Any]) -> Message:
    """What belongs to an answer, or to the result of a tool, beside its text."""
    found: Message = {}
    for name in ("name", "tool_call_id", "reasoning_content"):
        if turn.get(name):
            if not isinstance(turn[name], str):
                raise BadRow(f"{name} is not text")
            found[name] = _clean(turn[name])
    calls = turn.get("tool_calls")
    if isinstance(calls, str):
        calls = _json(calls, "tool_calls")
    if calls:
        if not isinstance(calls, list):
            raise BadRow("tool_calls are not a list")
        found["tool_calls"] = [_call(call) for call in calls]
    return found


def _call(call: Any) -> dict[str, Any]:
    """A call as templates take it: its arguments as an object, not as text."""
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise BadRow("a tool call names no function")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        arguments = _json(arguments, "arguments of a tool call")
    if not isinstance(arguments if arguments is not None else {}, Mapping):
        raise BadRow("arguments of a tool call are not an object")
    made = {
        "type": "function",
        "function": {"name": function["name"], "arguments": arguments or {}},
    }
    if isinstance(call.get("id"), str):
        made["id"] = call["id"]
    try:
        _clean(json.dumps(made, ensure_ascii=False))
    except (ValueError, TypeError, RecursionError):
        raise BadRow("tool_calls are not JSON") from None
    return made


def _json(text: str, what: str) -> Any:
    try:
        found = json.loads(text.strip() or "null")
        _clean(json.dumps(found, ensure_ascii=False))
    except (ValueError, RecursionError):
        raise BadRow(f"{what} are not JSON") from None
    return found


def _clean(text: str) -> str:
    """Refuse lone surrogates: they cannot be written as UTF-8."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise BadRow("text is not valid Unicode") from None
    return text


def _in_turn(messages: list[Message]) -> tuple[list[Message], list[str]]:
    """Trim what no server could have seen, then insist on the order of a real chat."""
    system = messages[:1] if messages[0]["role"] == "system" else []
    turns, repairs = messages[len(system) :], []
    if turns and turns[0]["role"] == "assistant":
        turns = turns[1:]
        repairs.append("assistant turn before the first user turn left out")
    if turns and turns[-1]["role"] == "user":
        turns = turns[:-1]
        repairs.append("unanswered last user turn left out")
    while turns and turns[-1]["role"] == "tool":
        turns = turns[:-1]
        repairs.append("unanswered last result of a tool left out")
    if not turns:
        raise BadRow("no user turn with an answer")
    allowed: tuple[str, ...] = ("user",)
    for turn in turns:
        if turn["role"] not in allowed:
            raise BadRow("turns do not alternate between user and assistant")
        allowed = NEXT["calling" if turn.get("tool_calls") else turn["role"]]
    if turns[-1]["role"] == "user":
        raise BadRow("no user turn with an answer")
    return system + turns, repairs
