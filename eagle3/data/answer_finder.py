"""Where the answers of a conversation are in its text, as the server had them.

For each answer the template renders the prompt that a server sends, and the conversation up to and
including the answer. The second text begins with the first; the target wrote what follows, up to
the first stop token:

    messages[:i], with generation prompt    ...<user>Hi<end><assistant>
    messages[:i + 1]                        ...<user>Hi<end><assistant>Hello!<end>\n
                                                                       [---------]

Two kinds of template show an answer that does not continue its prompt. One kind opens a thought in
the prompt but removes thoughts from all answers (DeepSeek-R1): an answer with a thought is then
placed after its prompt, as the target wrote it; one without stays as the template shows it, after
the header. The other kind changes earlier turns once the answer is there (gpt-oss removes the
analysis before a call): the answer is then placed after the prompt that the server had.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from eagle3.data.chat_template import (
    ANSWERED,
    ASKED,
    HELLO,
    PROBE_TOOL,
    ChatTemplate,
    common_prefix_length,
)
from eagle3.data.conversations import BadRow, Message
from eagle3.data.rendering_check import check_rendered, cut, left_out
from eagle3.data.thoughts import (
    BEGIN,
    CLOSED,
    CLOSES,
    EMPTY_THOUGHTS,
    END,
    KEYS,
    OPENED,
    REST_OF_THOUGHTS,
    split,
)

Span = tuple[int, int]
NEWLY_OPENED = "<think>\n"  # by the target, where neither prompt nor history show a thought
# differs from every real answer in its first character
PLACEHOLDER: Message = {"role": "assistant", "content": "\x00"}


@dataclass(frozen=True)
class ServedAnswer:
    """An answer as the server had it: text = prompt + empty thought + answer + rest."""

    text: str
    prompt: str
    start: int
    answer: str  # with the mark that ends it

    def where(self, text: str) -> Span | None:
        """The answer's span in a later text, None if it is not shown there. The text has to begin
        with the prompt, maybe without a thought that the prompt opened or left empty."""
        prompts = [self.prompt, *(self.prompt.removesuffix(opened) for opened in OPENED)]
        for prompt in dict.fromkeys(prompts):
            for thought in ("", *EMPTY_THOUGHTS):
                if text.startswith(prompt) and text.startswith(thought + self.answer, len(prompt)):
                    start = len(prompt) + len(thought)
                    return start, start + len(self.answer)
        return None


class AnswerFinder:
    """Finds answers by comparing renderings of a template."""

    def __init__(self, template: ChatTemplate, stops: Sequence[str]) -> None:
        """`stops`: texts of the tokens at which the target stops."""
        self.template, self.stops = template, tuple(stops)
        self._frames: dict[bool, tuple[str, str]] = {}

    def turn(self, messages: Sequence[Message], index: int, tools: Any = None) -> ServedAnswer:
        """The answer at `index`. Raises BadRow if the template does not show it unchanged."""
        message, before = messages[index], messages[:index]
        prompt = self.template(before, tools, prompt=True)
        text = self.template(messages[: index + 1], tools)
        thought, base = message.get(KEYS[0], ""), self._answer_start(text, prompt)
        if base is not None and (base == len(prompt) or not thought):
            start = base + self._empty_thought_length(text[base:], message, prompt, base)
            answer = self.ended(text[start:])
            try:
                self._check(answer, message, tools)
            except BadRow:
                if not thought:
                    raise
            else:
                served_prompt = prompt if base == len(prompt) else text[:start]
                return ServedAnswer(text, served_prompt, start, answer)
        if thought and prompt.endswith(CLOSED):
            raise BadRow(
                "the answer has a thought, but its prompt leaves the thought empty",
                f"the prompt ends with {cut(prompt[-60:])}, the thought is {cut(thought)}",
                "switch thinking on in tokens.chat_template_options (enable_thinking: true), or "
                "leave thoughts out of the rows",
            )
        return self._after_prompt(prompt, messages, index, tools)

    def _after_prompt(
        self, prompt: str, messages: Sequence[Message], index: int, tools: Any
    ) -> ServedAnswer:
        """An answer that the template shows differently, placed after its prompt."""
        message = {key: value for key, value in messages[index].items() if key != KEYS[0]}
        thought = messages[index].get(KEYS[0], "")
        text = self.template([*messages[:index], message], tools)
        start = self._answer_start(text, prompt)
        if start is None:
            start = self._after_header(text, prompt, messages[:index], tools)
        empty = (*EMPTY_THOUGHTS, *REST_OF_THOUGHTS)
        if not message["content"].startswith(empty):
            start += next((len(mark) for mark in empty if text.startswith(mark, start)), 0)
        answer = self.ended(text[start:])
        self._check(answer, message, tools)
        reply = self._written_thought(thought.strip(), prompt, answer) + answer
        return ServedAnswer(prompt + reply, prompt, len(prompt), reply)

    def _written_thought(self, thought: str, prompt: str, answer: str) -> str:
        """A thought that the template does not show, in the form in which the target writes it.
        Raises BadRow if that form is unknown."""
        if not thought:
            return ""
        opened = next((mark for mark in CLOSES if prompt.endswith(mark)), None)
        if opened is not None:
            return thought + CLOSES[opened]
        if self.template.thought_frame is not None:
            return thought.join(self.template.thought_frame)
        if self.template.thought_key is None and END in self.template.source:
            return NEWLY_OPENED + thought + CLOSES[NEWLY_OPENED]
        raise left_out("a thought", thought, answer)

    def cut_turn(self, messages: Sequence[Message], tools: Any = None) -> ServedAnswer:
        """The last answer, which `max_tokens` cut off, maybe inside its thought: the text of a
        complete answer with this beginning, up to the cut.

        Raises BadRow if the template shows such an answer differently.
        """
        *before, message = messages
        prompt = self.template(before, tools, prompt=True)
        content, thought = self._split_partial(message, prompt)
        completed = {**message, "content": content + HELLO}  # a complete answer with this beginning
        if thought:
            completed[KEYS[0]] = thought if content else thought + HELLO
        turn = self.turn([*before, completed], len(before), tools)
        written = (content or thought).strip()
        start = turn.answer.rfind(written + HELLO) if content else turn.answer.find(written + HELLO)
        if start < 0:
            raise left_out("an answer that was cut off", written, turn.answer)
        end = start + len(written)
        return ServedAnswer(
            turn.text[: turn.start + end], turn.prompt, turn.start, turn.answer[:end]
        )

    def _split_partial(self, message: Message, prompt: str) -> tuple[str, str]:
        """Content and thought of an answer that was cut off. An unfinished thought may still be
        part of the content."""
        content, thought = message["content"].rstrip(), message.get(KEYS[0], "")
        if thought or END in content:
            return content, thought if content else thought.rstrip()
        reads_thoughts = self.template.thought_key is not None or END in self.template.source
        if reads_thoughts and (
            prompt.endswith(tuple(CLOSES)) or content.lstrip().startswith(BEGIN)
        ):
            return "", content.lstrip().removeprefix(BEGIN).strip("\n")
        frame = self.template.thought_frame
        if frame is not None and content.startswith(frame[0]):
            return "", content.removeprefix(frame[0])
        return content, ""

    @staticmethod
    def _answer_start(text: str, prompt: str) -> int | None:
        """Where the answer begins in a text that begins with its prompt, maybe without the thought
        that the prompt opens; None if the text begins otherwise."""
        if text.startswith(prompt):
            return len(prompt)
        bases = (prompt.removesuffix(opened) for opened in OPENED)
        lengths = [len(base) for base in bases if base != prompt and text.startswith(base)]
        return min(lengths, default=None)

    def _after_header(self, text: str, prompt: str, before: Sequence[Message], tools: Any) -> int:
        """Where the answer begins in a text that shows the history differently from the prompt."""
        history, probe = self.template(before, tools), self.template([*before, PLACEHOLDER], tools)
        header = prompt.removeprefix(history) if prompt.startswith(history) else ""
        header = min((header.removesuffix(opened) for opened in OPENED), key=len)
        shared = common_prefix_length(text, probe)
        if not header:  # the answer follows directly, after the text before every answer
            opener = self.frame(tools)[0]
            return shared - len(opener) if text.endswith(opener, 0, shared) else shared
        start = text.rfind(header, 0, shared)
        if start < 0:
            common = common_prefix_length(text, prompt)
            raise BadRow(
                "the template shows an answer differently from the beginning in its prompt",
                f"the prompt goes on with {cut(prompt[common:])}, the text {cut(text[common:])}",
            )
        return start + len(header)

    def _empty_thought_length(self, rest: str, message: Message, prompt: str, base: int) -> int:
        """Length in characters of an empty thought that the template itself writes."""
        opened = base == len(prompt) and prompt.endswith(tuple(CLOSES))
        empty: tuple[str, ...] = REST_OF_THOUGHTS if opened else EMPTY_THOUGHTS
        if base < len(prompt):
            empty = (*EMPTY_THOUGHTS, *REST_OF_THOUGHTS)
        in_content = message["content"].startswith(BEGIN if opened else EMPTY_THOUGHTS)
        if in_content or message.get(KEYS[0]):
            return 0
        return next((len(mark) for mark in empty if rest.startswith(mark)), 0)

    def ended(self, rest: str) -> str:
        """The text after a prompt, up to and including the first stop token."""
        ends = [rest.find(stop) + len(stop) for stop in self.stops if stop in rest]
        return rest[: min(ends)] if ends else rest

    def taken_apart(self, reply: str, prompt: str) -> tuple[str, str]:
        """Content and thought of an answer as the target wrote it after its prompt, without the
        stop token."""
        opener, closer = self.frame()
        frame = self.template.thought_frame
        if frame is not None and reply.startswith(frame[0]) and frame[1] in reply:
            thought, _, reply = reply.removeprefix(frame[0]).partition(frame[1])
            return reply.removeprefix(opener).removesuffix(closer), thought
        reads_thoughts = self.template.thought_key is not None or END in self.template.source
        parts = split(reply, prompt.endswith(tuple(CLOSES))) if reads_thoughts else None
        if parts is not None and parts[0].strip():
            return parts[1].removesuffix(closer), parts[0]
        return reply.removeprefix(opener).removesuffix(closer), ""

    def _check(self, answer: str, message: Message, tools: Any) -> None:
        parts = (message["content"], message.get(KEYS[0], ""), str(message.get("tool_calls", "")))
        if any(stop in part for stop in self.stops for part in parts):
            raise BadRow("assistant text contains the end-of-turn marker")
        reply = next((answer.removesuffix(s) for s in self.stops if answer.endswith(s)), answer)
        check_rendered(reply, message, self.frame(tools))

    def closed(self, text: str, span: Span) -> Span:
        """The span, extended by the mark of the next turn where that mark ends an answer."""
        start, end = span
        if not text[start:end].endswith(self.stops):
            end += next((len(stop) for stop in self.stops if text.startswith(stop, end)), 0)
        return start, end

    def frame(self, tools: Any = None) -> tuple[str, str]:
        """What the target writes before and after the text of a plain answer, such as harmony's
        channel; it may differ in chats with tools."""
        with_tools = bool(tools)
        if with_tools not in self._frames:
            opener, hello, closer = self._plain([PROBE_TOOL] if tools else None).partition(HELLO)
            stop = next((mark for mark in self.stops if closer.endswith(mark)), None)
            closer = closer.removesuffix(stop) if stop else ""
            self._frames[with_tools] = (opener, closer) if hello else ("", "")
        return self._frames[with_tools]

    def _plain(self, tools: Any = None) -> str:
        """The text after the prompt of a plain answer, up to and including the first stop token."""
        probe = self.template.with_system([ASKED])
        try:
            prompt = self.template(probe, tools, prompt=True)
            text = self.template([*probe, ANSWERED], tools)
        except BadRow:
            return ""
        base = self._answer_start(text, prompt)
        return "" if base is None else self.ended(text[base:])

    @cached_property
    def plain(self) -> str:
        """A plain answer as the target writes it; nothing if the template shows none."""
        return self._plain()

    @cached_property
    def next_turn_ends(self) -> bool:
        """Whether the next turn's mark ends an answer, so that the last answer has no end mark."""
        if not self.plain or self.plain.endswith(self.stops):
            return False
        probe = self.template.with_system([ASKED])
        try:
            text = self.template([*probe, ANSWERED])
            longer = self.template([*probe, ANSWERED, ASKED])
        except BadRow:
            return False
        last, inner = (rendered.rpartition(HELLO)[2] for rendered in (text, longer))
        return inner.startswith(tuple(last + stop for stop in self.stops))

    @property
    def ends_answers(self) -> bool:
        """Whether a plain answer ends with a stop token."""
        return self.next_turn_ends or self.plain.endswith(self.stops)
