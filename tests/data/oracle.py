"""What is right to supervise in a conversation under a published template.

Found without our masker: for each answer the template renders the prompt that a server sends, and
the conversation up to that answer. What follows the prompt there, up to and including the first
token at which the target stops, is what the target has written.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from typing import Any

from tests.data.kinds import Message, conversation
from tests.data.published import Published

# Templates that show an answer otherwise than its prompt begins it: what stands before an answer
# in their history, and how their models write a thought there (before it, behind it). Facts of the
# models, by hand.
R1 = ("<｜Assistant｜>", "", "\n</think>\n\n")
R1_0528 = ("<｜Assistant｜>", "<think>\n", "\n</think>\n\n")
CHATML_OPEN = ("<|im_start|>assistant\n", "", "\n</think>\n\n")
HIDES: dict[str, tuple[str, str, str]] = {
    "deepseek_r1|deepseekv3|r1-distill": R1,
    "r1-0528|skywork": R1_0528,
    "nemotron|QwQ": CHATML_OPEN,
    "phi_4": ("<|im_start|>assistant<|im_sep|>", "<think>\n", "\n</think>\n\n"),
    "gemma4(?!_v2)": ("<|turn>model\n", "<|channel>thought\n", "\n<channel|>"),
    "gptoss|gpt-oss": ("<|start|>assistant", "", ""),
    "Kimi": ("<|im_assistant|>assistant<|im_middle|>", "", "</think>"),
    "MiniMax": ("]~b]ai\n", "", "\n</think>\n\n"),
    "GLM-4.7|glm-5": ("<|assistant|>", "", "</think>"),
    "mistral_v|mistral-|pixtral": ("[/INST]", "", ""),
}
EMPTY = r"^(<think>)?\n*</think>\n*|^<think></think>\n?"


def forms(messages: list[Message]) -> Iterator[list[Message]]:
    """The same chat in every form that some template reads: the key of thoughts, inline thoughts
    under that key, arguments as text, null for no content, contents as parts, ids of calls."""
    for key in ("reasoning_content", "thinking", None):
        for text_arguments in (False, True):
            for null in (False, True):
                for parts in (False, True):
                    yield [_form(m, key, text_arguments, null, parts) for m in messages]
    # Kimi K2 says which function it calls in the id of the call
    yield json.loads(re.sub(r"call0000(\d)", r"functions.get_weather:\1", json.dumps(messages)))


def _form(
    message: Message, key: str | None, text_arguments: bool, null: bool, parts: bool
) -> Message:
    made = copy.deepcopy(message)
    content, thought = apart(made)
    if key and thought:
        made |= {"content": content, key: thought}
        if key != "reasoning_content":
            made.pop("reasoning_content", None)
    for call in made.get("tool_calls", ()):
        if text_arguments:
            call["function"]["arguments"] = json.dumps(call["function"]["arguments"])
    if null and not made["content"]:
        made["content"] = None
    elif parts:
        made["content"] = [{"type": "text", "text": made["content"]}]
    return made


def apart(message: Message) -> tuple[str, str]:
    """Content and thought of a message."""
    inline = re.fullmatch(r"<think>\n(.*)\n</think>\n\n(.*)", message["content"])
    if inline:
        return inline[2], inline[1]
    return message["content"], message.get("reasoning_content", "")


# after a call with text this template ends the prompt with the end of the answer before
BY_HAND = {
    ("trl/gemma4_v5", "call with text"): [
        '<|tool_call>call:get_weather{city:<|"|>Oslo<|"|>}<tool_call|>Let me look.<|tool_response>',
        "No, it is cold.<turn|>",
    ]
}


def right(row: Published, kind: str) -> list[str] | None:
    """What is right to supervise, answer by answer; None if no form of the chat shows all of an
    answer behind a prompt, up to a token at which the target stops."""
    if (row.name, kind) in BY_HAND:
        return BY_HAND[row.name, kind]
    chat = conversation(kind)
    answers = [n for n, m in enumerate(chat.messages) if m["role"] == "assistant"]
    for form in forms(chat.messages):
        try:
            result = [_said(row, chat.messages, form, at, chat.tools) for at in answers]
        except Exception:  # whatever a template raises for a form that it cannot read
            continue
        pieces = [piece for piece in result if piece is not None]
        if len(pieces) == len(answers):
            return pieces
    return None


def _said(
    row: Published, chat: list[Message], form: list[Message], at: int, tools: Any
) -> str | None:
    """One answer of the chat, as the target has said it."""

    def shown(some: list[Message], prompt: bool) -> str:
        return row.tokenizer().apply_chat_template(
            some, tools=tools, tokenize=False, add_generation_prompt=prompt
        )

    content, thought = apart(chat[at])
    calls = chat[at].get("tool_calls", ())
    written = [content, *(call["function"]["arguments"]["city"] for call in calls)]
    written += [call["function"]["name"] for call in calls]
    prompt, text = shown(form[:at], True), shown(form[: at + 1], False)
    before = re.sub(r"<think>\n?$", "", prompt)
    thinks = not re.search(r"</think>\s*$", prompt)  # else the prompt has switched thoughts off
    if text.startswith(prompt) and thought in text[len(prompt) :]:
        said = text[len(prompt) :]
    else:
        headers = [hidden for names, hidden in HIDES.items() if re.search(names, row.name)]
        if not headers or (thought and not (thinks and headers[0][2])):
            return None
        header, begin, end = headers[0]
        rest = text[len(before) :] if text.startswith(before) else text.rpartition(header)[2]
        said = (begin + thought + end if thought else "") + re.sub(EMPTY, "", rest)
    if not thought:  # one that the template itself leaves empty is no word of the target
        said = re.sub(EMPTY, "", said)
    ends = [said.index(stop) + len(stop) for stop in row.stops if stop in said]
    if ends:
        said = said[: min(ends)]
    elif "<|user|>" in row.stops:  # GLM: the mark of the next turn ends it; the last one has none
        following = [stop for stop in row.stops if shown(form, False).startswith(text + stop)]
        said += following[0] if following and at + 1 < len(form) else ""
    else:
        return None
    whole = all(part in said for part in (*written, thought))
    repeats = "[{" in said and "'type': 'text'" in said  # parts written as Python
    return said if whole and not repeats else None
