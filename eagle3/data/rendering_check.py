"""Whether a template shows an answer unchanged and in full."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from eagle3.data.conversations import BadRow, Message
from eagle3.data.thoughts import KEYS

FRAMED = 60  # characters of each side that a message shows


def check_rendered(text: str, answer: Message, frame: tuple[str, str]) -> None:
    """Raise BadRow if `text` does not show an answer unchanged, but for what templates trim: Llama
    both ends, Qwen3 leading newlines. `frame`: what the template writes before and after plain
    answers, such as harmony's channel."""
    content, calls = answer["content"], answer.get("tool_calls", ())
    thought = answer.get(KEYS[0], "").strip()
    if not calls and not thought:
        forms = (content, content.strip(), content.lstrip("\n"), content.strip("\n"))
        opener, closer = frame
        inner = text.removeprefix(opener)
        if not any(f in forms for f in (text, inner, inner.removesuffix(closer))):
            raise rewritten(content.strip(), text)
        return
    if content.strip() not in text:
        raise left_out("text", content.strip(), text)
    if thought not in text:
        raise left_out("a thought", thought, text)
    for call in calls:
        name = call["function"]["name"]
        repeats = sum(other["function"]["name"] == name for other in calls)
        if text.count(name) < repeats or not holds_call(call, text):
            raise left_out("a call", json.dumps(call["function"], ensure_ascii=False), text)


def holds_call(call: dict[str, Any], text: str) -> bool:
    """Whether a text holds a call's name and the values of all its arguments."""
    function = call["function"]
    return function["name"] in text and all(
        any(form in text for form in _forms(value)) for value in _leaves(function["arguments"])
    )


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for member in value.values():
            yield from _leaves(member)
    elif isinstance(value, list):
        for member in value:
            yield from _leaves(member)
    elif value is not None and not isinstance(value, bool):
        yield value


def _forms(value: Any) -> Iterator[str]:
    """The forms in which templates write a text or a number: plain, JSON, Python."""
    yield str(value).strip()
    yield json.dumps(value, ensure_ascii=False).strip('"')
    yield json.dumps(value).strip('"')
    yield repr(value)[1:-1]


def rewritten(content: str, rendered: str) -> BadRow:
    return BadRow(
        "rendered text does not show a turn as it is (the template rewrites it)",
        f"the row has {cut(content)}, the template shows {cut(rendered)}",
    )


def left_out(what: str, part: str, rendered: str) -> BadRow:
    return BadRow(
        "rendered text does not show a turn as it is (the template leaves parts out)",
        f"it leaves out {what}, {cut(part)}, and shows {cut(rendered)}",
        "the target cannot say it in this template: leave such rows out, or have them answered "
        "by the target (dataset.regenerate)",
    )


def cut(text: str) -> str:
    """The beginning of a text, for messages."""
    return repr(text if len(text) <= FRAMED else text[:FRAMED] + "…")
