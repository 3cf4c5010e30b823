"""One turn of a row as a message: role, content, and further parts of an answer.

Datasets hold a thought under `reasoning_content`, `reasoning` or `thinking`, or as a part of the
content; here it is always `reasoning_content`. A key with a null or empty value is treated as
absent. Any other key must be known, or the row is refused: whatever a server would have shown the
model must be in the text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eagle3.data.faults import BadRow, clean
from eagle3.data.thoughts import KEYS
from eagle3.data.tool_calls import calls_in, calls_of

Message = dict[str, Any]  # role, content, and further parts of an answer

ROLES = {
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bing", "bard", "model", "ai"), "assistant"),
    **dict.fromkeys(("bot", "chatbot"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("tool", "function", "observation", "ipython", "tool_response"), "tool"),
    **dict.fromkeys(("function_response", "tool_result", "tool_results"), "tool"),
    # answers that are calls alone, as JSON
    **dict.fromkeys(("function_call", "tool_call"), "call"),
}
# keys that mark a turn as context only
UNTRAINED = ("weight", "train", "training", "trainable", "loss", "loss_mask")
# metadata of a turn, which no server shows the model
NOTES = frozenset((
    "id", "turn_id", "message_id", "uuid", "parent_id", "index", "idx", "turn", "turn_identifier",
    "timestamp", "create_time", "created_at", "date", "country", "state", "language", "lang",
    "hashed_ip", "header", "redacted", "toxic", "score", "rating", "rank", "model", "model_name",
    "source", "metadata", "meta", "annotations", "tokens", "length", "finish_reason", "stop_reason",
    "logprobs", "usage", "end_turn", "extra", "eos",
))  # fmt: skip
TURN = ("role", "from", "content", "value", "name", "tool_call_id", "tool_calls")
IN_CONTENT = "thinking part of content"  # our key for a thought that was a part of the content
KNOWN = frozenset((*TURN, *KEYS, *UNTRAINED, *NOTES))


def message_of(turn: Any) -> Message:
    """One turn as a message; its content may be empty. Raises BadRow."""
    if not isinstance(turn, Mapping):
        raise BadRow("turn is not an object")
    name, content = first(turn, "from", "role"), first(turn, "value", "content")
    role = ROLES.get(name.lower()) if isinstance(name, str) else None
    if role is None:
        raise BadRow(f"unknown role {str(name)[:40]!r}")
    if turn.get("function_call"):
        raise BadRow("turn carries function_call, which templates no longer read: use tool_calls")
    _refuse_unknown(turn)
    if isinstance(content, list):
        content, thought = _joined(content)
        turn = {**turn, IN_CONTENT: thought}
    if role == "call":
        if not isinstance(content, str):
            raise BadRow("content is not text")
        extras = _extra_fields({**turn, "tool_calls": None, "name": None})
        fields = {"content": "", **extras, "tool_calls": calls_in(content)}
        return {"role": "assistant", **fields, **_flags(turn)}
    extras = _extra_fields(turn) if role in ("assistant", "tool") else {}
    if content is None and (role in ("system", "tool") or "tool_calls" in extras):
        content = ""
    if not isinstance(content, str):
        raise BadRow("content is not text")
    flags = _flags(turn) if role == "assistant" else {}
    return {"role": role, "content": clean(content), **extras, **flags}


def first(mapping: Mapping[str, Any], *names: str) -> Any:
    """The value under the first name that holds one."""
    return next((mapping[name] for name in names if mapping.get(name) is not None), None)


def says_something(message: Message) -> bool:
    return bool(message["content"].strip() or message.keys() & {"tool_calls", KEYS[0]})


def _refuse_unknown(turn: Mapping[str, Any]) -> None:
    unknown = (str(key) for key, value in turn.items() if key not in KNOWN and value)
    key = min(unknown, default=None)
    if key is not None:
        raise BadRow(f"turn carries {key[:40]!r}, which is not understood")


def _flags(turn: Mapping[str, Any]) -> Message:
    """The field of a turn that is context only; none for other turns."""
    flags = (turn[name] for name in UNTRAINED if turn.get(name) is not None)
    return {"train": False} if any(flag in (0, "0", "false", "False") for flag in flags) else {}


def _joined(parts: list[Any]) -> tuple[str, str | None]:
    """Text and thought of a content that is a list of parts. Raises BadRow for a part that is
    neither."""
    texts, thoughts = [], []
    for part in parts:
        kind = part.get("type") if isinstance(part, Mapping) else None
        present = {k: v for k, v in part.items() if v is not None} if kind is not None else part
        if isinstance(present, str):
            texts.append(present)
        elif kind in ("text", "input_text", "output_text") and isinstance(present.get("text"), str):
            texts.append(present["text"])
        elif kind in ("thinking", "reasoning") and isinstance(first(present, kind, "text"), str):
            thoughts.append(first(present, kind, "text"))
        elif kind is None:
            raise BadRow("content is not text")
        else:
            raise BadRow(f"content has a part of type {str(kind)[:40]!r}")
    return "".join(texts), "".join(thoughts) or None


def _extra_fields(turn: Mapping[str, Any]) -> Message:
    """Fields of an answer or a tool result other than its text."""
    extras: Message = {}
    for name in ("name", "tool_call_id"):
        if turn.get(name):
            extras[name] = _text(turn, name)
    thoughts = {_text(turn, name) for name in (*KEYS, IN_CONTENT) if turn.get(name)}
    if len(thoughts) > 1:
        raise BadRow("turn carries two thoughts that differ")
    if thoughts:
        extras[KEYS[0]] = thoughts.pop()
    calls = calls_of(turn.get("tool_calls"))
    if calls:
        extras["tool_calls"] = calls
    return extras


def _text(turn: Mapping[str, Any], name: str) -> str:
    if not isinstance(turn[name], str):
        raise BadRow(f"{name} is not text")
    return clean(turn[name])
