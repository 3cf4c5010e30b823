"""Whether a template shows an answer as it is, all of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from eagle3.data.conversations import BadRow, Message
from eagle3.data.thoughts import KEYS

FRAMED = 60  # characters of both sides in a refusal


def check_shown(said: str, answer: Message, frame: tuple[str, str]) -> None:
    """Raise BadRow if the text `said` does not show an answer as it is. Templates trim: Llama all
    around, Qwen3 leading newlines. `frame`: what the template writes around plain answers, such as
    harmony's channel."""
    content, calls = answer["content"], answer.get("tool_calls", ())
    thought = answer.get(KEYS[0], "").strip()
    if not calls and not thought:
        forms = (content, content.strip(), content.lstrip("\n"), content.strip("\n"))
        opener, closer = frame
        inner = said.removeprefix(opener)
        if not any(f in forms for f in (said, inner, inner.removesuffix(closer))):
            raise rewritten(content.strip(), said)
        return
    if content.strip() not in said:
        raise left_out("text", content.strip(), said)
    if thought not in said:
        raise left_out("a thought", thought, said)
    for call in calls:
        name = call["function"]["name"]
        alike = sum(each["function"]["name"] == name for each in calls)
        if said.count(name) < alike or not call_is_shown(call, said):
            raise left_out("a call", json.dumps(call["function"], ensure_ascii=False), said)


def call_is_shown(call: dict[str, Any], text: str) -> bool:
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
    """How templates write a text or a number: as it is, in JSON, in Python."""
    yield str(value).strip()
    yield json.dumps(value, ensure_ascii=False).strip('"')
    yield json.dumps(value).strip('"')
    yield repr(value)[1:-1]


def rewritten(content: str, said: str) -> BadRow:
    return BadRow(
        "rendered text does not show a turn as it is (the template rewrites it)",
        f"the row has {cut(content)}, the template shows {cut(said)}",
    )


def left_out(what: str, part: str, said: str) -> BadRow:
    return BadRow(
        "rendered text does not show a turn as it is (the template leaves parts out)",
        f"it leaves out {what}, {cut(part)}, and shows {cut(said)}",
        "the target cannot say it in this template: leave such rows out, or have them answered "
        "by the target (dataset.regenerate)",
    )


def cut(text: str) -> str:
    """The beginning of a text, as it is shown to people."""
    return repr(text if len(text) <= FRAMED else text[:FRAMED] + "…")
