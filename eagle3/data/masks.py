"""From text and character spans to token ids and a loss mask, by offsets.

The rendered text is tokenised once. A token is supervised iff its characters lie inside a span;
a token that spans the start is not, because a server's prompt ends exactly there and never
contains it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from eagle3.data.answer_finder import Span
from eagle3.data.conversations import BadRow, Conversation
from eagle3.data.rendering_check import cut
from eagle3.data.templates import Rendered, Renderer
from eagle3.errors import UserError

if TYPE_CHECKING:  # jobs that only read tokens start without pydantic
    from eagle3.config.tokens import Tokens


@dataclass(frozen=True)
class TokenizedDocument:
    """A conversation, or the text of one of its turns, as tokens."""

    row_id: str
    input_ids: np.ndarray  # int32 [L]
    loss_mask: np.ndarray  # uint8 [L]
    truncated: bool


BATCH = 64  # conversations tokenised in one call


class Masker:
    """Tokenises conversations and marks what the target itself emits."""

    def __init__(
        self,
        tokenizer: Any,
        values: Tokens,
        stop_ids: Iterable[int] = (),
    ) -> None:
        """`stop_ids`: generation_config.eos_token_id of the target; the end of a turn must be one.

        Raises UserError if the tokenizer has no offsets (a slow tokenizer), or if its template ends
        answers with a token at which the target would not stop.
        """
        if not tokenizer.is_fast:
            raise UserError(
                "target.model: the tokenizer gives no character offsets, by which supervised "
                "tokens are found: a tokenizer.json is needed beside the weights (a fast one)"
            )
        self.tokenizer, self.values = tokenizer, values
        self.stop_ids = frozenset(stop_ids)
        self.renderer = Renderer.of(tokenizer, values, self.stop_ids)
        self._check_end()

    def _check_end(self) -> None:
        """Raise UserError if the template ends plain answers with no stop token."""
        if not self.stop_ids:
            return
        if self.renderer.marked:
            fault = self.renderer.fault_of_marks()
            if fault is not None:
                raise UserError(f"target.model: {fault}: {fault.detail}; {fault.remedy}")
            return
        finder = self.renderer.finder
        if finder.plain and not finder.ends_answers:
            raise UserError(
                f"target.model: the chat template shows an answer as {cut(finder.plain)}, without "
                f"a token of generation_config.eos_token_id, {sorted(self.stop_ids)} "
                f"({', '.join(map(repr, finder.stops))}); the draft would learn to go on"
            )

    def __call__(
        self, conversations: Iterable[Conversation]
    ) -> Iterator[tuple[Conversation, list[TokenizedDocument] | BadRow]]:
        """Token ids and masks of conversations in order, cut to `max_length`: one document each,
        more where a template later shows earlier turns differently. A BadRow in their place if no
        token is supervised, or a turn goes on after a stop token or ends without one.
        """
        for batch in _in_batches(conversations):
            rendered = [self._rendered(conversation) for conversation in batch]
            texts = [
                text for outcome in rendered if not isinstance(outcome, BadRow) for text in outcome
            ]
            encoded = iter(
                self.tokenizer.backend_tokenizer.encode_batch(
                    [text.text for text in texts], add_special_tokens=False
                )
            )
            for conversation, outcome in zip(batch, rendered, strict=True):
                if isinstance(outcome, BadRow):
                    yield conversation, outcome
                    continue
                tokens = [next(encoded) for _ in outcome]
                try:
                    yield conversation, self._documents(conversation.id, outcome, tokens)
                except BadRow as fault:
                    yield conversation, fault

    def _rendered(self, conversation: Conversation) -> list[Rendered] | BadRow:
        try:
            outcome = self.renderer.render(conversation)
        except BadRow as fault:
            return fault
        if self.values.train_only_last_turn:
            return [replace(outcome[-1], spans=outcome[-1].spans[-1:], turn=None)]
        return outcome if self.values.rewritten_turns == "separate" else outcome[-1:]

    def _documents(
        self, row_id: str, rendered: Sequence[Rendered], encoded: Sequence[Any]
    ) -> list[TokenizedDocument]:
        """Documents of a conversation; raises BadRow if none of them has a supervised token."""
        documents, truncated = [], False
        for text, tokens in zip(rendered, encoded, strict=True):
            ids = np.array(tokens.ids, dtype=np.int32)
            runs = [run_of(tokens.token_to_chars, len(ids), span) for span in text.spans]
            mask = np.zeros(len(ids), dtype=np.uint8)
            for run in runs:
                mask[run] = 1
            self._check_stop(ids, runs, text)
            too_long = len(ids) > self.values.max_length
            ids, mask = ids[: self.values.max_length], mask[: self.values.max_length]
            truncated |= too_long
            if mask.any():
                name = row_id if text.turn is None else f"{row_id}#{text.turn}"
                documents.append(TokenizedDocument(name, ids, mask, too_long))
        if not documents:
            raise BadRow("no supervised token" + (" within max_length" if truncated else ""))
        return documents

    def _check_stop(self, ids: np.ndarray, runs: Sequence[slice], rendered: Rendered) -> None:
        """The last token of each turn, and no token before it, stops the target's generation."""
        if not self.stop_ids:
            return
        for span, run in zip(rendered.spans, runs, strict=True):
            turn = ids[run].tolist()
            if self.stop_ids.isdisjoint(turn[-1:]):
                open_ended = rendered.cut or self.renderer.next_turn_ends
                if open_ended and span[1] == len(rendered.text):
                    continue  # the end of the last answer is not shown
                raise BadRow(
                    "the template ends an answer without a stop token",
                    f"it ends with {cut(self.tokenizer.decode(turn[-20:]))}",
                    "a target that writes such answers would go on: leave such rows out",
                )
            if not self.stop_ids.isdisjoint(turn[:-1]):
                raise BadRow("assistant text contains a stop token")


def run_of(chars: Callable[[int], Span], count: int, span: Span) -> slice:
    """The tokens whose characters lie inside a span: tokens are in text order, so they are one run.

    `chars`: maps one of the `count` tokens of a text to its first character and the one after its
    last. Two binary searches look up some twenty tokens of thousands; converting all offsets to
    Python numbers costs as much as tokenising the text.
    """
    start, end = span
    first = bisect_left(range(count), start, key=lambda token: chars(token)[0])
    last = bisect_right(range(count), end, key=lambda token: chars(token)[1])
    # a tokenizer that trims spaces from its offsets gives a run of spaces zero width; such a token
    # is inside unless it lies on an edge, where it may belong to the neighbour
    while first < last and chars(first) == (start, start):
        first += 1
    while first < last and chars(last - 1) == (end, end):
        last -= 1
    return slice(first, last)


def _in_batches(conversations: Iterable[Conversation]) -> Iterator[list[Conversation]]:
    remaining = iter(conversations)
    while batch := list(islice(remaining, BATCH)):
        yield batch
