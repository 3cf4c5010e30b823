"""The marks around thoughts: opened by a prompt, left empty by a template, or in an answer.

They are those of published models.
"""

from __future__ import annotations

from typing import Any

# keys of a message that templates read a thought from; this project uses the first
KEYS = ("reasoning_content", "reasoning", "thinking")
# a prompt that opens a thought ends with the first text; the target ends it with the second
CLOSES = {"<think>\n": "\n</think>\n\n", "<think>": "</think>"}
# ends of prompts that leave the thought empty, so that the target writes none
CLOSED = (
    "<think>\n\n</think>\n\n",
    "\n<think></think>",
    "<think></think>",
    "</think>",
    "<|channel>thought\n<channel|>",
)
# what may follow the header at the end of a prompt
OPENED: tuple[str, ...] = (*CLOSES, *CLOSED, "<|open|>think<|sep|>")
# an empty thought is the template's, unless the answer itself begins with one
EMPTY_THOUGHTS = ("<think>\n\n</think>\n\n", "<think></think>\n", "<think></think>")
REST_OF_THOUGHTS = ("\n</think>\n\n", "</think>\n\n", "</think>\n", "</think>")  # once opened
BEGIN, END = "<think>", "</think>"


def split(content: str, opened: bool = False) -> tuple[str, str] | None:
    """The thought that a content begins with, and the rest; None if there is none.

    `opened`: prompts of the template open the thought, so the content may lack the opening mark.
    """
    stripped = content.lstrip()
    if content.count(END) != 1 or not (opened or stripped.startswith(BEGIN)):
        return None
    thought, reply = stripped.split(END)
    return thought.removeprefix(BEGIN).strip("\n"), reply.lstrip("\n")


def with_thought(message: dict[str, Any], opened: bool, empty: bool) -> dict[str, Any]:
    """An answer whose content begins with a thought, with the thought under a separate key; any
    other message unchanged. `empty`: remove an empty thought too."""
    if message["role"] != "assistant" or END not in message["content"] or message.get(KEYS[0]):
        return message
    parts = split(message["content"], opened)
    if parts is None or not (parts[0].strip() or empty):
        return message
    thought, reply = parts
    return {**message, "content": reply, **({KEYS[0]: thought} if thought.strip() else {})}
