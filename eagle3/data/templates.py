"""Chat templates: how a conversation is rendered, and where its assistant turns lie in the text.

The text is always the one that the tokenizer's own template renders, since that is what a server
renders. Supervised are the spans that the target itself emits: from the end of the prompt up to
and including the mark that ends the turn, without what a template adds after. They are found
without knowing the template, by rendering what a server renders before each answer:

    messages[:i], with generation prompt    ...<user>Hi<end><assistant>
    messages[:i + 1]                        ...<user>Hi<end><assistant>Hello!<end>\n
                                                                       [---------]

or taken from the template's own `{% generation %}` marks. Nothing inside a message can mislead
this. A template that shows an answer otherwise once the chat goes on (it takes thoughts out of
history) gives every such turn a text of its own, which is what the server had seen.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from eagle3.data.conversations import BadRow, Conversation, Message
from eagle3.data.preformatted import Marks, answers_of
from eagle3.data.shown import check_shown
from eagle3.data.template_names import EMPTY_THOUGHTS, NAMED, OPENED, REST_OF_THOUGHTS, Named
from eagle3.errors import UserError

Span = tuple[int, int]
# of a template's own code, as when it meets a tool description that it cannot read
TEMPLATE_FAULTS = (
    TypeError,
    ValueError,
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,
)
GENERATION_MARK = re.compile(r"\{%-?\s*generation\s*-?%\}")


@dataclass(frozen=True)
class Rendered:
    """A text, and the characters of it that the target has written: one span for each turn."""

    text: str
    spans: list[Span]
    turn: int | None = None  # of a text that is one turn's own


@dataclass(frozen=True)
class _Turn:
    """An answer as the server had it: text = prompt + thought left empty + answer + more."""

    text: str
    prompt: str
    start: int
    answer: str  # with the mark that ends it

    def where(self, text: str) -> Span | None:
        """The answer's place in a later text, if it is shown there: its prompt first, though maybe
        without a thought that the prompt opened or that was left empty."""
        prompts = [self.prompt, *(self.prompt.removesuffix(opened) for opened in OPENED)]
        for prompt in dict.fromkeys(prompts):
            for thought in ("", *EMPTY_THOUGHTS):
                if text.startswith(prompt) and text.startswith(thought + self.answer, len(prompt)):
                    start = len(prompt) + len(thought)
                    return start, start + len(self.answer)
        return None


class Renderer:
    """Renders conversations with a tokenizer's template and finds the supervised spans."""

    def __init__(
        self,
        tokenizer: Any,
        choice: str,
        options: Mapping[str, Any] | None = None,
        stops: Iterable[str] = (),
        system_prompt: str | None = None,
    ) -> None:
        """`choice`: auto, generation, or a name (`template_names`) whose marks must be met.
        `options`: what a server passes to the template beside the messages, such as
        `enable_thinking`. `stops`: texts of the tokens at which the target stops. `system_prompt`:
        for conversations without one; none is ever added otherwise.

        Raises UserError if the tokenizer has no chat template, or not the named one.
        """
        self.tokenizer, self.options = tokenizer, dict(options or {})
        self.system = (
            [] if system_prompt is None else [{"role": "system", "content": system_prompt}]
        )
        source = tokenizer.chat_template
        if isinstance(source, dict):
            source = source.get("default")
        if not source:
            raise UserError("target.model: the tokenizer has no chat template; use a chat model")
        marked = bool(GENERATION_MARK.search(source))
        if choice == "generation" and not marked:
            raise UserError(
                "tokens.chat_template is 'generation' but the tokenizer's template has no "
                "{% generation %} block"
            )
        self.marked = marked and choice in ("auto", "generation")
        self.source, self.given_stops = source, tuple(stops)
        self.named = None if self.marked else self._met(choice)
        self.stops = self._stops(self.named)

    def _stops(self, named: Named | None) -> tuple[str, ...]:
        """Texts that end an answer."""
        ends = (*self.given_stops, *(named.ends if named else ()))
        return tuple(dict.fromkeys(ends)) or (self.tokenizer.eos_token,)

    def _prompt_and_before(self) -> tuple[str, str]:
        """A prompt, and the same messages where nothing is asked."""
        asked = [*self.system, {"role": "user", "content": "Hi"}]
        try:
            before, prompt = self._apply(asked), self._apply(asked, prompt=True)
        except BadRow as fault:
            raise UserError(f"target.model: {fault}") from None
        if prompt == before:
            raise UserError(
                "target.model: the tokenizer's template adds no generation prompt, so nothing says "
                "where an answer begins; use a template with add_generation_prompt, or with "
                "{% generation %} blocks"
            )
        return prompt, before

    def _met(self, choice: str) -> Named | None:
        """The named marks, if the template's prompt ends with them; those of a known template where
        no name is given."""
        (prompt, _), source = self._prompt_and_before(), self.source
        if choice == "auto":
            fitting = [each for each in NAMED.values() if _fits(each, prompt, source)]
            # a mark of the next turn is in every template of the kind, another one tells more
            return min(fitting, key=lambda each: each.next_turn_ends, default=None)
        named = NAMED[choice]
        if not _fits(named, prompt, source):
            raise UserError(
                f"tokens.chat_template is {choice!r}, which ends prompts with {named.headers[0]!r} "
                f"and answers with {named.ends[0]!r}, "
                f"but the tokenizer's template ends prompts with {prompt[-60:]!r}; use auto"
            )
        return named

    @property
    def next_turn_ends(self) -> bool:
        """Whether the mark of the next turn is what ends an answer."""
        return not self.marked and self.named is not None and self.named.next_turn_ends

    def prompt_in(self, text: str) -> str:
        """A text that is rendered already, up to its last answer. Raises BadRow without one."""
        return text[: answers_of(text, self._marks)[-1][0]]

    @cached_property
    def _marks(self) -> Marks:
        """What stands around the answers of a text that is rendered already."""
        prompt, before = self._prompt_and_before()
        named = self.named or self._met("auto")
        ends = self._stops(named)
        # a template may end what is no prompt with a mark of its own
        shared = len(before) if prompt.startswith(before) else prompt.rindex("Hi") + len("Hi")
        inside = [end for end in ends if self._inside(end)]
        return Marks(prompt[shared:], ends, inside, named is not None and named.next_turn_ends)

    def prompt(self, messages: Sequence[Message], tools: Any = None) -> str:
        """The text a server would send to the model before it answers.

        Raises BadRow if the template refuses the messages.
        """
        return self._apply(self._with_system(messages), tools, prompt=True)

    def render(self, conversation: Conversation) -> list[Rendered]:
        """The conversation as one text, or as several where later turns change earlier ones.

        Raises BadRow if the rendered text does not show the turns as they are.
        """
        if conversation.text is not None:
            return [Rendered(conversation.text, answers_of(conversation.text, self._marks))]
        messages = self._with_system(conversation.messages)
        if self.marked:
            return [self._of_marks(messages, conversation.tools)]
        turns = [
            self._turn(messages, index, conversation.tools)
            for index, message in enumerate(messages)
            if message["role"] == "assistant"
        ]
        whole = turns[-1].text
        apart, spans = [], []
        for number, turn in enumerate(turns):
            span = turn.where(whole)
            if span is None:
                end = turn.start + len(turn.answer)
                apart.append(Rendered(turn.text, [(turn.start, end)], number))
            else:
                spans.append(self._closed(whole, span))
        return [*apart, Rendered(whole, spans)]

    def _with_system(self, messages: Sequence[Message]) -> list[Message]:
        return [*(self.system if messages[0]["role"] != "system" else ()), *messages]

    def _apply(self, messages: Sequence[Message], tools: Any = None, prompt: bool = False) -> str:
        def rendered() -> str:
            return self.tokenizer.apply_chat_template(
                list(messages),
                tools=tools,
                tokenize=False,
                add_generation_prompt=prompt,
                **self.options,
            )

        return _or_bad_row(rendered)

    def _turn(self, messages: list[Message], index: int, tools: Any) -> _Turn:
        """An answer as the server has had it."""
        message = messages[index]
        prompt = self._apply(messages[:index], tools, prompt=True)
        text = self._apply(messages[: index + 1], tools)
        if not text.startswith(prompt):
            raise BadRow("the template shows an answer otherwise than its prompt begins it")
        start = len(prompt)
        opened = prompt.endswith(("<think>\n", "<think>"))
        empty = REST_OF_THOUGHTS if opened else EMPTY_THOUGHTS
        own = message["content"].startswith("<think>" if opened else EMPTY_THOUGHTS)
        if not own and not message.get("reasoning_content"):
            start += next((len(thought) for thought in empty if text.startswith(thought, start)), 0)
        shown = text[start:]
        ends = [shown.rfind(stop) + len(stop) for stop in self.stops if stop in shown]
        answer = shown[: max(ends)] if ends else shown
        said = answer
        for stop in self.stops:
            if answer.endswith(stop):
                said = answer.removesuffix(stop)
                break
        if any(stop in said for stop in self.stops if not self._inside(stop)):
            raise BadRow("assistant text contains the end-of-turn marker")
        check_shown(said, message, lambda: self._opener)
        return _Turn(text, prompt, start, answer)

    @cached_property
    def _opener(self) -> str:
        """What the target writes before the text of a plain answer, such as harmony's channel."""
        asked = [*self.system, {"role": "user", "content": "Hi"}]
        try:
            prompt = self._apply(asked, prompt=True)
            answered = self._apply([*asked, {"role": "assistant", "content": "Hello"}])
        except BadRow:
            return ""
        return answered.removeprefix(prompt).partition("Hello")[0] if prompt in answered else ""

    def _inside(self, stop: str) -> bool:
        """Whether a mark may stand inside an answer: harmony ends each of its channels with one."""
        return stop == "<|end|>" and "<|return|>" in self.stops

    def _closed(self, text: str, span: Span) -> Span:
        """The span with the mark of the next turn, where that is what ends an answer."""
        start, end = span
        if not text[start:end].endswith(self.stops):
            end += next((len(stop) for stop in self.stops if text.startswith(stop, end)), 0)
        return start, end

    def _of_marks(self, messages: list[Message], tools: Any) -> Rendered:
        """By the template's own marks."""
        from transformers.utils.chat_template_utils import render_jinja_template

        def rendered() -> Any:
            return render_jinja_template(
                [messages],
                tools=tools,
                chat_template=self.tokenizer.get_chat_template(None, tools),
                return_assistant_tokens_mask=True,
                **self.tokenizer.special_tokens_map,
                **self.options,
            )

        texts, spans = _or_bad_row(rendered)
        return Rendered(texts[0], [(start, end) for start, end in spans[0] if end > start])


def _fits(named: Named, prompt: str, source: str) -> bool:
    """Whether a template ends its prompts as a named one, and knows a mark that ends answers."""
    endings = tuple(header + opened for header in named.headers for opened in ("", *OPENED))
    return prompt.endswith(endings) and any(end in source for end in named.ends)


def _or_bad_row(rendered: Callable[[], Any]) -> Any:
    """What a template renders; a BadRow if it refuses the conversation."""
    import jinja2

    try:
        return rendered()
    except (jinja2.exceptions.TemplateError, *TEMPLATE_FAULTS) as fault:
        raise BadRow(f"the chat template refuses the conversation: {fault}") from None
