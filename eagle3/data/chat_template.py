"""A tokenizer's chat template, called as a server calls it.

Templates read the same message in different forms: a thought under one of three keys, arguments of
a call as an object or as JSON text, an answer of calls alone with empty or null content, contents
as text or as a list of parts. Rendering a short chat in each form shows which one a template reads,
so no template needs to be known by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from typing import Any

from eagle3.data.conversations import BadRow, Message
from eagle3.data.rendering_check import holds_call
from eagle3.data.thoughts import KEYS
from eagle3.data.tool_calls import with_naming_ids, with_text_arguments
from eagle3.errors import UserError

# raised by a template's own code, for example on a tool description that it cannot read
TEMPLATE_FAULTS = (
    TypeError,
    ValueError,
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,
)
# The date in templates that write today's: tokens must not depend on the day of the job
DATE = date(2026, 1, 1)
ASKED: Message = {"role": "user", "content": "Hi"}
HELLO = "Hello"
ANSWERED: Message = {"role": "assistant", "content": HELLO}
THOUGHT = "what may it be"
PROBE_TOOL = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Looks up",
        "parameters": {
            "type": "object",
            "properties": {"word": {"type": "string", "description": "A word"}},
            "required": ["word"],
        },
    },
}
PROBE_CALL = {
    "type": "function",
    "function": {"name": "look_up", "arguments": {"word": "heron"}},
    "id": "call00000",  # Mistral's templates want nine letters or digits
}


@dataclass(frozen=True)
class CallForm:
    """How a template reads an answer that calls tools."""

    text_arguments: bool = False
    null_content: bool = False  # where the answer has no text
    naming_ids: bool = False  # the id names the called function (Kimi)

    def of(self, message: Message) -> Message:
        calls = message["tool_calls"]
        if self.text_arguments:
            calls = [with_text_arguments(call) for call in calls]
        content = None if self.null_content and not message["content"] else message["content"]
        return {**message, "content": content, "tool_calls": calls}


CALL_FORMS = (
    *(CallForm(text, null) for null in (False, True) for text in (False, True)),
    *(CallForm(text, False, True) for text in (False, True)),
)


class ChatTemplate:
    """Renders messages with a tokenizer's own template."""

    def __init__(
        self,
        tokenizer: Any,
        options: Mapping[str, Any] | None = None,
        system_prompt: str | None = None,
    ) -> None:
        """`options`: what a server passes to the template along with the messages, such as
        `enable_thinking`. `system_prompt`: added to conversations without one; None adds nothing.

        Raises UserError if the tokenizer has no chat template.
        """
        self.tokenizer = tokenizer
        self.system: list[Message] = (
            [] if system_prompt is None else [{"role": "system", "content": system_prompt}]
        )
        source = tokenizer.chat_template
        if isinstance(source, dict):
            source = source.get("default")
        if not source:
            raise UserError("target.model: the tokenizer has no chat template; use a chat model")
        self.source: str = source
        writes_date = "strftime_now" in str(tokenizer.chat_template)  # any of its templates
        date_option = {"strftime_now": DATE.strftime} if writes_date else {}
        self.options = date_option | dict(options or {})

    def with_system(self, messages: Sequence[Message]) -> list[Message]:
        return [*(self.system if messages[0]["role"] != "system" else ()), *messages]

    def __call__(self, messages: Sequence[Message], tools: Any = None, prompt: bool = False) -> str:
        """The rendered messages; with `prompt`, the text that a server sends for an answer.

        Raises BadRow if the template refuses them.
        """
        return self._rendered(self._adapt_all(messages), tools, prompt)

    def with_marks(self, messages: Sequence[Message], tools: Any) -> tuple[str, list[Any]]:
        """The text, and the characters that the template's `{% generation %}` blocks wrote."""
        from transformers.utils.chat_template_utils import render_jinja_template

        texts, spans = or_bad_row(
            lambda: render_jinja_template(
                [self._adapt_all(messages)],
                tools=tools,
                chat_template=self.tokenizer.get_chat_template(None, tools),
                return_assistant_tokens_mask=True,
                **self.tokenizer.special_tokens_map,
                **self.options,
            )
        )
        return texts[0], spans[0]

    def _rendered(self, messages: list[Message], tools: Any, prompt: bool = False) -> str:
        return or_bad_row(
            lambda: self.tokenizer.apply_chat_template(
                messages,
                tools=tools,
                tokenize=False,
                add_generation_prompt=prompt,
                **self.options,
            )
        )

    def _adapt_all(self, messages: Sequence[Message]) -> list[Message]:
        """The messages in the form that the template reads."""
        if any(m.get("tool_calls") for m in messages) and self.call_form.naming_ids:
            messages = with_naming_ids(messages)
        return [self._adapt(message) for message in messages]

    def _adapt(self, message: Message) -> Message:
        """A message in the form that the template reads."""
        if len(message) == 2 and not self.as_parts:  # a role and a text, as nearly all have
            return message
        if message.get(KEYS[0]) and self.thought_key not in (None, KEYS[0]):
            thought = {self.thought_key: message[KEYS[0]]}
            message = {k: v for k, v in message.items() if k != KEYS[0]} | thought
        if "train" in message:
            message = {key: value for key, value in message.items() if key != "train"}
        if message.get("tool_calls"):
            message = self.call_form.of(message)
        if self.as_parts and isinstance(message["content"], str):
            message = {**message, "content": [{"type": "text", "text": message["content"]}]}
        return message

    @cached_property
    def as_parts(self) -> bool:
        """Whether the template reads contents only as lists of parts, which servers pass to models
        that take images."""
        texts = [*self.system, ASKED, ANSWERED]
        parts = [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in texts]
        return not self._shows(HELLO, texts) and self._shows(HELLO, parts)

    @property
    def thought_key(self) -> str | None:
        """The key that the template reads thoughts from; None if it reads none."""
        return self._thoughts[0]

    @property
    def thought_frame(self) -> tuple[str, str] | None:
        """What the template writes before and after a thought; None if it cannot be told."""
        return self._thoughts[1]

    @cached_property
    def _thoughts(self) -> tuple[str | None, tuple[str, str] | None]:
        calling = {"role": "assistant", "content": "", "tool_calls": [PROBE_CALL]}
        for answer, tools in ((ANSWERED, None), (calling, [PROBE_TOOL])):
            for key in KEYS:
                probe = [*self.system, ASKED, {**answer, key: THOUGHT}]
                if self._shows(THOUGHT, probe, tools):
                    text = self._rendered(probe, tools)
                    without = self._rendered([*probe[:-1], answer], tools)
                    return key, _text_around(text, without, self._rendered(probe[:-1], tools, True))
        return None, None

    @cached_property
    def call_form(self) -> CallForm:
        """The first form of calls that the template shows; the plainest if it shows none."""
        calling = {"role": "assistant", "content": "", "tool_calls": [PROBE_CALL]}
        for form in CALL_FORMS:
            try:
                probe = with_naming_ids([calling])[0] if form.naming_ids else calling
                text = self._rendered([*self.system, ASKED, form.of(probe)], [PROBE_TOOL])
            except BadRow:
                continue
            if holds_call(PROBE_CALL, text.rpartition("Hi")[2]):
                return form
        return CALL_FORMS[0]

    def _shows(self, expected: str, messages: list[Message], tools: Any = None) -> bool:
        try:
            return expected in self._rendered(messages, tools)
        except BadRow:
            return False


def common_prefix_length(first: str, second: str) -> int:
    """How many characters both texts begin with."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((n for n, (a, b) in pairs if a != b), min(len(first), len(second)))


def _text_around(text: str, without: str, prompt: str) -> tuple[str, str] | None:
    """The text before and after the thought in the part of `text` that `without` lacks; None
    unless there is some on both sides. Both texts begin with `prompt`."""
    start = common_prefix_length(text, without)
    end = start + len(text) - len(without)
    # a part that begins like the text after it may start further left
    while start > len(prompt) and text[start - 1] == text[end - 1]:
        start, end = start - 1, end - 1
    before, thought, after = text[start:end].partition(THOUGHT)
    return (before, after) if thought and before and after else None


def or_bad_row(render: Callable[[], Any]) -> Any:
    """What `render` returns. Raises BadRow if the template refuses the conversation."""
    import jinja2

    try:
        return render()
    except (jinja2.exceptions.TemplateError, *TEMPLATE_FAULTS) as fault:
        raise BadRow(f"the chat template refuses the conversation: {fault}") from None
