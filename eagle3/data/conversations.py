"""One conversation: parsed from common row formats, or refused with a cause; never in part.

Understood rows: ShareGPT (`conversations` of `from`/`value`) and OpenAI style (`messages` or
`conversations` of `role`/`content`), with an optional `id`, an optional `tools` column (a list
of JSON schemas, or the JSON text of one), a system prompt in a separate column, and
`chat_template_kwargs`. A row without turns may instead have a `text` that the target's template
rendered. What a turn may hold: see `messages`. A null value is treated as absent: tables on the hub
have every column in every row.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from eagle3.data.faults import BadRow, clean
from eagle3.data.messages import Message, first, message_of, says_something
from eagle3.data.tool_calls import from_json, tools_of, without_foreign_nulls, without_nulls

__all__ = ["BadRow", "Conversation", "Message", "parse_row"]

# which roles may follow; a tool only follows an answer with calls
NEXT = {
    "user": ("assistant",),
    "assistant": ("user",),
    "calling": ("tool", "user"),
    "tool": ("tool", "assistant"),
}
SYSTEM_COLUMNS = ("system", "system_prompt")
# columns that a server would show the model, but a text cannot
UNRENDERABLE = ("images", "image", "audios", "audio", "videos", "video", "documents")


@dataclass(frozen=True)
class Conversation:
    """A valid conversation: an optional system message, then user and assistant messages in turn,
    with tool results between an answer that calls tools and the next one. Or a rendered text."""

    id: str
    messages: list[Message]
    tools: Any = None
    text: str | None = None  # already rendered; there are no messages then
    options: dict[str, Any] | None = None  # for the template, in addition to the configuration's
    cut: bool = False  # the last answer was cut off: no mark ends it

    def to_json(self) -> str:
        if self.text is not None:
            return json.dumps({"id": self.id, "text": self.text}, ensure_ascii=False)
        row: dict[str, Any] = {"id": self.id, "conversations": self.messages}
        if self.tools:
            row["tools"] = self.tools
        if self.options:
            row["chat_template_kwargs"] = self.options
        if self.cut:
            row["cut"] = True
        return json.dumps(row, ensure_ascii=False)

    @classmethod
    def from_json(cls, line: str | bytes) -> Conversation:
        row = json.loads(line)
        return cls(
            row["id"],
            row.get("conversations", []),
            row.get("tools"),
            row.get("text"),
            row.get("chat_template_kwargs"),
            row.get("cut", False),
        )


def parse_row(row: Any) -> tuple[Conversation, list[str]]:
    """A conversation and the repairs it took (each a cause to be counted).

    Raises BadRow with a short cause; nothing of a refused row is used.
    """
    if not isinstance(row, Mapping):
        raise BadRow("row is not an object")
    for column in UNRENDERABLE:
        if row.get(column):
            raise BadRow(f"the row has {column}, which no text can show")
    turns, text = first(row, "conversations", "messages"), row.get("text")
    if turns is None and isinstance(text, str) and text.strip():
        return Conversation(_identity(row, text), [], None, clean(text)), []
    if not isinstance(turns, list) or not turns:
        raise BadRow("no list of turns under 'conversations' or 'messages'")
    messages, repairs = _repaired(_with_system(row, [message_of(turn) for turn in turns]))
    tools = tools_of(row.get("tools")) or tools_of(row.get("functions"), wrapped=False)
    for message in messages:
        if message.get("tool_calls"):
            calls = message["tool_calls"]
            message["tool_calls"] = [without_foreign_nulls(call, tools) for call in calls]
    options = _options(row.get("chat_template_kwargs"))
    return Conversation(_identity(row, messages), messages, tools, None, options), repairs


def _identity(row: Mapping[str, Any], content: Any) -> str:
    """The row's id, or one derived from its content."""
    identity = first(row, "id", "conversation_id")
    if isinstance(identity, float):  # pandas makes numbers floats where some are missing
        is_integer = math.isfinite(identity) and identity == int(identity)
        identity = int(identity) if is_integer else None if math.isnan(identity) else str(identity)
    if identity is None or identity == "":
        identity = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
    if not isinstance(identity, str | int):
        raise BadRow("id is neither text nor a number")
    return clean(str(identity))


def _options(column: Any) -> dict[str, Any] | None:
    """Options that a row passes to the template in addition to the messages."""
    options = from_json(column, "chat_template_kwargs") if isinstance(column, str) else column
    if not options:
        return None
    if not isinstance(options, Mapping) or not all(
        isinstance(value, str | int | float | bool | None) for value in options.values()
    ):
        raise BadRow("chat_template_kwargs are not an object of texts, numbers and switches")
    clean(json.dumps(dict(options), ensure_ascii=False))
    return without_nulls(dict(options)) or None


def _with_system(row: Mapping[str, Any], messages: list[Message]) -> list[Message]:
    """The messages, with the system prompt of a separate column if there is one."""
    columns = [row[name] for name in SYSTEM_COLUMNS if row.get(name)]
    if not all(isinstance(prompt, str) for prompt in columns):
        raise BadRow("the system prompt in a column is not text")
    prompts = [prompt for prompt in columns if prompt.strip()]
    if not prompts:
        return messages
    inline = [m["content"] for m in messages[:1] if m["role"] == "system" and m["content"].strip()]
    if len({*prompts, *inline}) > 1:
        raise BadRow("the row has two system prompts that differ")
    if inline:
        return messages
    rest = messages[1:] if messages[0]["role"] == "system" else messages
    return [{"role": "system", "content": clean(prompts[0])}, *rest]


def _repaired(messages: list[Message]) -> tuple[list[Message], list[str]]:
    """Drop what no server could have seen, then require the turn order of a real chat.

    Returns the messages and the repairs. Raises BadRow.
    """
    system, repairs = messages[:1] if messages[0]["role"] == "system" else [], []
    turns = messages[len(system) :]
    if system and not system[0]["content"].strip():
        system = []
        repairs.append("empty system message left out")
    if turns and turns[0]["role"] == "assistant":
        turns = turns[1:]
        repairs.append("assistant turn before the first user turn left out")
    if turns and turns[-1]["role"] == "assistant" and not says_something(turns[-1]):
        turns = turns[:-1]
        repairs.append("empty last answer left out")
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
        if turn["role"] != "tool" and not says_something(turn):
            raise BadRow("empty content")
        allowed = NEXT["calling" if turn.get("tool_calls") else turn["role"]]
    if turns[-1]["role"] == "user":
        raise BadRow("no user turn with an answer")
    answers = [turn for turn in turns if turn["role"] == "assistant"]
    if not any(answer.get("train", True) for answer in answers):
        raise BadRow("every answer is marked not to be trained")
    return system + turns, repairs
