"""A conversation as one text or several, and the spans in them that the target wrote.

The text is always the one that the tokenizer's own template renders (`chat_template`), because
that is what a server renders. The spans that the target itself emits are supervised: from the end
of the prompt up to and including the token that ends the turn, without what a template adds after
it. They are found by comparing renderings (`answer_finder`), or taken from the template's own
`{% generation %}` blocks if the configuration says so. No content of a message can mislead this.
If a template shows an answer differently once the chat goes on (it removes thoughts from history),
every such answer becomes a separate text: the one that the server had.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from eagle3.data.answer_finder import AnswerFinder, Span
from eagle3.data.chat_template import ANSWERED, ASKED, HELLO, ChatTemplate
from eagle3.data.conversations import BadRow, Conversation, Message
from eagle3.data.generation_marks import spans_of_marks
from eagle3.data.preformatted import Marks, answers_of
from eagle3.data.template_names import NAMED, Named
from eagle3.data.thoughts import CLOSES, KEYS, OPENED, with_thought
from eagle3.errors import UserError

if TYPE_CHECKING:  # jobs that only read tokens start without pydantic
    from eagle3.config.tokens import Tokens

GENERATION_MARK = re.compile(r"\{%-?\s*generation\s*-?%\}")


@dataclass(frozen=True)
class Rendered:
    """A text, and the spans of characters in it that the target wrote, one for each turn."""

    text: str
    spans: list[Span]
    turn: int | None = None  # of a text for one turn alone
    cut: bool = False  # whether the last turn was cut off


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
        """`choice`: auto, generation, or a name (`template_names`) whose marks must be there.
        `options`: what a server passes to the template in addition to the messages, such as
        `enable_thinking`. `stops`: texts of the tokens at which the target stops. `system_prompt`:
        added to conversations without one; None adds nothing.

        Raises UserError if the tokenizer has no chat template, or not the named one, or one that
        does not show where answers begin.
        """
        self.tokenizer = tokenizer
        self.template = ChatTemplate(tokenizer, options, system_prompt)
        marked = bool(GENERATION_MARK.search(self.template.source))
        if choice == "generation" and not marked:
            raise UserError(
                "tokens.chat_template is 'generation' but the tokenizer's template has no "
                "{% generation %} block"
            )
        self.given_stops = tuple(stops)
        self.prompts = self._prompts()
        self.named_marks = None if choice == "generation" else self._matching_marks(choice)
        self.finder = AnswerFinder(self.template, self._stops(self.named_marks))
        # what a server's prompt contains is certain; what a block was meant to contain is not
        compared = self.prompts.comparable and self.finder.ends_answers
        self.marked = choice == "generation" or (marked and choice == "auto" and not compared)
        if not self.marked and not self.prompts.comparable:
            raise UserError(
                "target.model: the tokenizer's template adds no generation prompt, so nothing says "
                "where an answer begins; use a template with add_generation_prompt, or with "
                "{% generation %} blocks"
            )
        self._finders: dict[str, AnswerFinder] = {}

    @classmethod
    def of(cls, tokenizer: Any, tokens: Tokens, stop_ids: Iterable[int]) -> Renderer:
        """The renderer that the section `tokens` asks for, of a target that stops at `stop_ids`."""
        stops = [tokenizer.decode([stop]) for stop in sorted(stop_ids)]
        options, system_prompt = tokens.chat_template_options, tokens.system_prompt
        return cls(tokenizer, tokens.chat_template, options, stops, system_prompt)

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts that end an answer."""
        return self.finder.stops

    def _stops(self, marks: Named | None) -> tuple[str, ...]:
        ends = self.given_stops or (marks.ends if marks else ())
        return tuple(dict.fromkeys(ends)) or (self.tokenizer.eos_token,)

    def _prompts(self) -> _Prompts:
        """The template's renderings of the shortest chat."""
        probe = self.template.with_system([ASKED])
        try:
            before, prompt = self.template(probe), self.template(probe, prompt=True)
        except BadRow as fault:
            raise UserError(f"target.model: {fault}") from None
        try:
            answered = self.template([*probe, ANSWERED])
        except BadRow:
            answered = ""
        return _Prompts(before, prompt, answered)

    def _matching_marks(self, choice: str) -> Named | None:
        """The marks of the named template, or of a known one that fits where none is named.

        Raises UserError if the named one does not fit.
        """
        prompt, source = self.prompts.prompt, self.template.source
        if choice in ("auto", "generation"):
            fitting = [marks for marks in NAMED.values() if _fits(marks, prompt, source)]
            # the next turn's mark is in every template of its kind; other marks are more specific
            return min(fitting, key=lambda marks: marks.next_turn_ends, default=None)
        marks = NAMED[choice]
        if not _fits(marks, prompt, source):
            raise UserError(
                f"tokens.chat_template is {choice!r}, which ends prompts with {marks.headers[0]!r} "
                f"and answers with {marks.ends[0]!r}, "
                f"but the tokenizer's template ends prompts with {prompt[-60:]!r}; use auto"
            )
        return marks

    @property
    def next_turn_ends(self) -> bool:
        """Whether the mark of the next turn ends an answer."""
        return not self.marked and self.finder.next_turn_ends

    def prompt_in(self, text: str) -> str:
        """A rendered text up to its last answer. Raises BadRow if it has none."""
        return text[: answers_of(text, self._marks)[-1][0]]

    @property
    def header(self) -> str:
        """The text between a question and its answer."""
        before, prompt = self.prompts.before, self.prompts.prompt
        # a template may end a text without a prompt with a separate mark, or have only that mark
        # before an answer
        extends = prompt.startswith(before) and prompt != before
        return prompt[len(before) if extends else prompt.rindex("Hi") + len("Hi") :]

    @cached_property
    def _marks(self) -> Marks:
        """The marks around the answers of a text that came rendered."""
        marks = self.named_marks or self._matching_marks("auto")
        between = marks.between if marks else ()
        ends = (*self._stops(marks), *between)
        last_is_open = marks is not None and marks.next_turn_ends
        return Marks(self.header, ends, between, last_is_open or self.next_turn_ends)

    def prompt(self, messages: Sequence[Message], tools: Any = None, options: Any = None) -> str:
        """The text a server would send to the model before it answers.

        `options`: those of the row, in addition to the configuration's.
        Raises BadRow if the template refuses the messages.
        """
        template = self._finder_for(options).template
        form = self._forms(template.with_system(messages), template)[0]
        return template(form, tools, prompt=True)

    def answer(self, tokens: Sequence[int], prompt: str) -> Message:
        """What the target wrote after `prompt`, as a message of a later prompt: without the token
        that ended it, its thought under a separate key, as servers return it."""
        reply = self.tokenizer.decode(tokens, clean_up_tokenization_spaces=False)
        reply = next((reply.removesuffix(s) for s in self.stops if reply.endswith(s)), reply)
        content, thought = self.finder.taken_apart(reply, prompt)
        if content == reply:  # nothing framed it: drop the remaining special tokens
            content = self.tokenizer.decode(tokens, skip_special_tokens=True)
        extras = {KEYS[0]: thought} if thought else {}
        return {"role": "assistant", "content": content, **extras}

    def render(self, conversation: Conversation) -> list[Rendered]:
        """The conversation as one text, or as several where later turns change earlier ones.

        Raises BadRow if the rendered text does not show the turns unchanged.
        """
        if conversation.text is not None:
            return [Rendered(conversation.text, answers_of(conversation.text, self._marks))]
        finder = self._finder_for(conversation.options)
        messages = finder.template.with_system(conversation.messages)
        fault = BadRow("no answer")
        for form in self._forms(messages, finder.template):
            try:
                return self._rendered(finder, form, conversation.tools, conversation.cut)
            except BadRow as refused:
                fault = refused
        raise fault

    def fault_of_marks(self) -> BadRow | None:
        """Why the template's blocks mark a plain answer wrongly; None if they do not."""
        messages = self.template.with_system([ASKED, ANSWERED])
        try:
            spans_of_marks(self.finder, self.given_stops, messages, [len(messages) - 1], None)
        except BadRow as fault:
            return fault
        return None

    def _forms(self, messages: list[Message], template: ChatTemplate) -> list[list[Message]]:
        """The forms of the messages to try, in order. A thought that a content begins with is moved
        under its key: in the first form where the template reads such a key, in the second always,
        and there an empty one is removed."""
        opened = self.prompts.prompt.endswith(tuple(CLOSES))
        keyed = [with_thought(message, opened, False) for message in messages]
        preferred = messages if template.thought_key is None else keyed
        bare = [with_thought(message, opened, True) for message in messages]
        return [preferred] if bare == preferred else [preferred, bare]

    def _rendered(
        self, finder: AnswerFinder, messages: list[Message], tools: Any, cut: bool
    ) -> list[Rendered]:
        answers = [n for n, message in enumerate(messages) if message["role"] == "assistant"]
        trained = [(n, at) for n, at in enumerate(answers) if messages[at].get("train", True)]
        if self.marked:
            if cut:
                raise BadRow("an answer that was cut off does not fit {% generation %} blocks")
            indices = [at for _, at in trained]
            return [Rendered(*spans_of_marks(finder, self.given_stops, messages, indices, tools))]
        complete = trained[:-1] if cut else trained
        served = [(number, finder.turn(messages, at, tools)) for number, at in complete]
        if cut:
            served.append((trained[-1][0], finder.cut_turn(messages, tools)))
        full_text = served[-1][1].text
        separate, spans = [], []
        for number, turn in served:
            span = turn.where(full_text)
            if span is None:
                end = turn.start + len(turn.answer)
                separate.append(Rendered(turn.text, [(turn.start, end)], number))
            else:
                spans.append(finder.closed(full_text, span))
        return [*separate, Rendered(full_text, spans, cut=cut)]

    def _finder_for(self, options: Mapping[str, Any] | None) -> AnswerFinder:
        """The answer finder for a row's options, in addition to the configuration's."""
        if not options:
            return self.finder
        key = json.dumps(options, sort_keys=True)
        if key not in self._finders:
            template = ChatTemplate(self.tokenizer, {**self.template.options, **options})
            template.system = self.template.system
            self._finders[key] = AnswerFinder(template, self.stops)
        return self._finders[key]


@dataclass(frozen=True)
class _Prompts:
    """Renderings of the shortest chat: a question plain, as a prompt, and answered."""

    before: str
    prompt: str
    answered: str

    @property
    def comparable(self) -> bool:
        """Whether the prompt shows where the answer begins: it ends with a header, or the answer
        follows the question without one (Mistral, Llama 2)."""
        rest = self.answered[len(self.prompt) :]
        headless = self.answered.startswith(self.prompt) and rest.lstrip(" ").startswith(HELLO)
        return self.prompt != self.before or headless


def _fits(marks: Named, prompt: str, source: str) -> bool:
    """Whether a template ends its prompts as a named one does, and has one of its end marks."""
    endings = tuple(header + opened for header in marks.headers for opened in ("", *OPENED))
    return prompt.endswith(endings) and any(end in source for end in marks.ends)
