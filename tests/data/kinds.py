"""Ten kinds of conversation, as datasets have them."""

from __future__ import annotations

import copy
from typing import Any

from eagle3.data.conversations import Conversation

Message = dict[str, Any]

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Weather of a city",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "description": "Its name"}},
                "required": ["city"],
            },
        },
    }
]


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def assistant(text: str, thought: str = "", calls: tuple[str, ...] = ()) -> Message:
    """`calls`: cities whose weather is asked for."""
    message: Message = {"role": "assistant", "content": text}
    if thought:
        message["reasoning_content"] = thought
    if calls:
        message["tool_calls"] = [
            {
                "type": "function",
                "function": {"name": "get_weather", "arguments": {"city": city}},
                "id": f"call{number:05}",  # Mistral wants nine letters or digits
            }
            for number, city in enumerate(calls)
        ]
    return message


def result(text: str, number: int = 0) -> Message:
    return {
        "role": "tool",
        "content": text,
        "name": "get_weather",
        "tool_call_id": f"call{number:05}",
    }


ASK = user("Is it warm in Oslo?")
FOUND = [result("4 degrees"), assistant("No, it is cold.")]
KINDS: dict[str, list[Message]] = {
    "plain": [user("Hi!"), assistant("Hello there.")],
    "two turns": [user("Hi!"), assistant("Hello."), user("1+1?"), assistant("Two.")],
    "system": [{"role": "system", "content": "Be brief."}, user("Hi!"), assistant("Hello.")],
    "thoughts": [
        user("Hi!"),
        assistant("Hello.", "a greeting"),
        user("1+1?"),
        assistant("Two.", "an easy sum"),
    ],
    "inline thoughts": [
        user("Hi!"),
        assistant("<think>\na greeting\n</think>\n\nHello."),
        user("1+1?"),
        assistant("<think>\nan easy sum\n</think>\n\nTwo."),
    ],
    "call": [ASK, assistant("", calls=("Oslo",)), *FOUND],
    "call with text": [ASK, assistant("Let me look.", calls=("Oslo",)), *FOUND],
    "call with thoughts": [ASK, assistant("", "look it up", ("Oslo",)), *FOUND],
    "parallel calls": [
        user("Is it warm in Oslo and Rome?"),
        assistant("", calls=("Oslo", "Rome")),
        result("4 degrees"),
        result("20 degrees", 1),
        assistant("In Rome."),
    ],
    "ends in a call": [ASK, assistant("", calls=("Oslo",))],
}


def conversation(kind: str) -> Conversation:
    messages = copy.deepcopy(KINDS[kind])
    return Conversation("row", messages, TOOLS if "call" in kind else None)
