"""Chat templates: how a conversation is rendered, and where its assistant turns lie in the text.

The text is always the one that the tokenizer's own template renders, since that is what a server
renders. What differs is how the supervised spans are found in it:

* `generation`: the template marks them itself with `{% generation %}`;
* a declared family (`chatml`, `llama3`): a walk over the rendered text, message by message. The
  walk knows the content it must meet next, so text inside a message that looks like a header
  cannot mislead it.

A span is [start, end) in characters: everything that the target itself emits, from the end of the
generation prompt up to and including the end-of-turn marker, without what a template adds after.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from eagle3.data.conversations import BadRow, Conversation
from eagle3.errors import UserError

Span = tuple[int, int]


@dataclass(frozen=True)
class ChatTemplate:
    """A family of templates, declared by its marks."""

    name: str
    header: str  # with {role}
    end_of_turn: str
    prompt_tail: tuple[str, ...] = ()  # what a template may put between header and answer


CHATML = ChatTemplate(
    name="chatml",
    header="<|im_start|>{role}\n",
    end_of_turn="<|im_end|>",
    # Qwen3 without thinking: the empty block is part of the generation prompt
    prompt_tail=("<think>\n\n</think>\n\n",),
)
LLAMA3 = ChatTemplate(
    name="llama3",
    header="<|start_header_id|>{role}<|end_header_id|>\n\n",
    end_of_turn="<|eot_id|>",
)
FAMILIES = {template.name: template for template in (CHATML, LLAMA3)}
MARKS = {name: family.header.partition("{")[0] for name, family in FAMILIES.items()}
GENERATION_MARK = re.compile(r"\{%-?\s*generation\s*-?%\}")


class Renderer:
    """Renders conversations with a tokenizer's template and finds the supervised spans."""

    def __init__(
        self, tokenizer: Any, choice: str, options: Mapping[str, Any] | None = None
    ) -> None:
        """`choice`: auto, generation, or the name of a family. `options`: what a server passes to
        the template beside the messages, such as `enable_thinking`.

        Raises UserError if the tokenizer has no chat template or its family is not recognised.
        """
        self.tokenizer = tokenizer
        self.options = dict(options or {})
        source = tokenizer.chat_template
        if isinstance(source, dict):
            source = source.get("default")
        if not source:
            raise UserError("target.model: the tokenizer has no chat template; use a chat model")
        marked = bool(GENERATION_MARK.search(source))
        if choice == "auto":
            choice = "generation" if marked else _recognise(source)
        if choice == "generation" and not marked:
            raise UserError(
                "tokens.chat_template is 'generation' but the tokenizer's template has no "
                "{% generation %} block"
            )
        if choice in MARKS and MARKS[choice] not in source:
            raise UserError(
                f"tokens.chat_template is {choice!r} but the tokenizer's template never writes "
                f"{MARKS[choice]}; use auto"
            )
        self.choice = choice

    def prompt(self, messages: list[dict[str, str]], tools: Any = None) -> str:
        """The text a server would send to the model before it answers.

        Raises BadRow if the template refuses the messages.
        """
        import jinja2

        try:
            return self.tokenizer.apply_chat_template(
                messages, tools=tools, tokenize=False, add_generation_prompt=True, **self.options
            )
        except (jinja2.exceptions.TemplateError, TypeError, ValueError) as fault:
            raise BadRow(f"the chat template refuses the conversation: {fault}") from None

    def render(self, conversation: Conversation) -> tuple[str, list[Span]]:
        """The whole conversation as text, and one span for each assistant turn.

        Raises BadRow if the rendered text does not show the turns as they are.
        """
        import jinja2

        try:
            if self.choice == "generation":
                return self._marked(conversation)
            text = self.tokenizer.apply_chat_template(
                conversation.messages, tools=conversation.tools, tokenize=False, **self.options
            )
        except (jinja2.exceptions.TemplateError, TypeError, ValueError) as fault:
            # Type- and ValueError: the template's own code met a tool description it cannot read
            raise BadRow(f"the chat template refuses the conversation: {fault}") from None
        return text, _walk(text, conversation.messages, FAMILIES[self.choice])

    def _marked(self, conversation: Conversation) -> tuple[str, list[Span]]:
        from transformers.utils.chat_template_utils import render_jinja_template

        rendered: Any = render_jinja_template(
            [conversation.messages],
            tools=conversation.tools,
            chat_template=self.tokenizer.get_chat_template(None, conversation.tools),
            return_assistant_tokens_mask=True,
            **self.tokenizer.special_tokens_map,
            **self.options,
        )
        texts, spans = rendered
        return texts[0], [(start, end) for start, end in spans[0] if end > start]


def _recognise(source: str) -> str:
    """Family of a template, by the header it writes."""
    for name, mark in MARKS.items():
        if mark in source:
            return name
    raise UserError(
        "tokens.chat_template is 'auto' but the tokenizer's template is of no known family "
        f"({', '.join(FAMILIES)}) and has no {{% generation %}} block; add the block around what "
        "the assistant writes"
    )


def _walk(text: str, messages: list[dict[str, str]], family: ChatTemplate) -> list[Span]:
    """Spans of the assistant turns, found in order of the messages."""
    spans, cursor = [], 0
    for message in messages:
        header = family.header.format(role=message["role"])
        if message["role"] == "system":
            cursor = _after_system(text, cursor, header, message["content"], family)
            continue
        start, cursor = _next_turn(text, cursor, header, message["content"], family)
        if message["role"] == "assistant":
            if family.end_of_turn in message["content"]:
                raise BadRow("assistant text contains the end-of-turn marker")
            spans.append((start, cursor))
    return spans


def _after_system(text: str, cursor: int, header: str, content: str, family: ChatTemplate) -> int:
    """End of the system turn, into which templates weave dates and tool descriptions."""
    content = content.strip()
    found = text.find(header, cursor)
    shown = text.find(content, found)
    # a prompt that holds a marker does not end there; a template may also leave the prompt out
    closed = text.find(family.end_of_turn, found if shown < 0 else shown + len(content))
    if found < 0 or closed < 0:
        raise BadRow("rendered text does not show the system turn")
    return closed + len(family.end_of_turn)


def _next_turn(text: str, cursor: int, header: str, content: str, family: ChatTemplate) -> Span:
    """The next turn under `header` from `cursor` on: its content, end-of-turn marker included."""
    # templates trim differently: Llama all around, Qwen3 leading newlines
    forms = (content, content.strip(), content.lstrip("\n"), content.strip("\n"))
    found = text.find(header, cursor)
    while found >= 0:
        start = found + len(header)
        for tail in (*family.prompt_tail, ""):
            if tail and not text.startswith(tail, start):
                continue
            for form in forms:
                # with the marker: a trimmed form may be the beginning of an untrimmed one
                if text.startswith(form + family.end_of_turn, start + len(tail)):
                    return start + len(tail), start + len(tail + form + family.end_of_turn)
        # a header that the template added on its own, such as a system turn with the date
        found = text.find(header, start)
    raise BadRow("rendered text does not show a turn as it is (the template rewrites history)")
