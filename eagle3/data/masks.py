"""From text and character spans to token ids and a loss mask, by offsets.

The rendered text is tokenised once. A token is supervised iff its characters lie inside a span;
a token that merges characters across the start of a span is not, since a server's prompt ends
exactly there and never contains it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from eagle3.data.conversations import BadRow, Conversation
from eagle3.data.templates import Renderer, Span
from eagle3.errors import UserError


@dataclass(frozen=True)
class TokenizedDocument:
    """One conversation as tokens."""

    row_id: str
    input_ids: np.ndarray  # int32 [L]
    loss_mask: np.ndarray  # uint8 [L]
    truncated: bool


class Masker:
    """Tokenises conversations and marks what the target itself emits."""

    def __init__(
        self,
        tokenizer: Any,
        chat_template: str,
        max_length: int,
        only_last_turn: bool,
        stop_ids: Iterable[int] = (),
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """`stop_ids`: generation_config.eos_token_id of the target; the end of a turn must be one.

        Raises UserError if the tokenizer has no offsets (a slow tokenizer).
        """
        if not tokenizer.is_fast:
            raise UserError(
                "target.model: the tokenizer gives no character offsets (not a fast one)"
            )
        self.tokenizer = tokenizer
        self.renderer = Renderer(tokenizer, chat_template, options)
        self.max_length = max_length
        self.only_last_turn = only_last_turn
        self.stop_ids = frozenset(stop_ids)

    def __call__(self, conversation: Conversation) -> TokenizedDocument:
        """Token ids and mask of one conversation, cut to `max_length`.

        Raises BadRow if no token is supervised or a turn goes on after a stop token; UserError
        if a turn ends with a token at which the target would not stop.
        """
        text, spans = self.renderer.render(conversation)
        if self.only_last_turn:
            spans = spans[-1:]
        # "longer than the model's maximum" is answered by our own cut below
        encoded = self.tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        ids = np.array(encoded["input_ids"], dtype=np.int32)
        offsets = np.array(encoded["offset_mapping"], dtype=np.int64).reshape(-1, 2)
        mask = supervised(offsets, spans)
        self._check_stop(ids, offsets, spans)
        truncated = len(ids) > self.max_length
        ids, mask = ids[: self.max_length], mask[: self.max_length]
        if not mask.any():
            raise BadRow("no supervised token" + (" within max_length" if truncated else ""))
        return TokenizedDocument(conversation.id, ids, mask, truncated)

    def _check_stop(self, ids: np.ndarray, offsets: np.ndarray, spans: Sequence[Span]) -> None:
        """The last token of each turn, and no token before it, stops the target's generation."""
        if not self.stop_ids:
            return
        for span in spans:
            turn = ids[_run(offsets, span)].tolist()
            if self.stop_ids.isdisjoint(turn[-1:]):
                raise UserError(
                    f"target.model: a turn ends with token {turn[-1:]} "
                    f"({self.tokenizer.decode(turn[-1:])!r}) but generation_config."
                    f"eos_token_id is {sorted(self.stop_ids)}; the draft would learn to go on"
                )
            if not self.stop_ids.isdisjoint(turn[:-1]):
                raise BadRow("assistant text contains a stop token")


def supervised(offsets: np.ndarray, spans: Sequence[Span]) -> np.ndarray:
    """uint8 [L]: 1 where token characters `offsets` [L, 2] lie inside one of the spans."""
    mask = np.zeros(len(offsets), dtype=np.uint8)
    for span in spans:
        mask[_run(offsets, span)] = 1
    return mask


def _run(offsets: np.ndarray, span: Span) -> slice:
    """The tokens of a span: tokens are in text order, so they are one run."""
    # a tokenizer that trims spaces from its offsets gives a run of spaces no width at all; such a
    # token is inside unless it lies on an edge, where it may as well be the neighbour's
    start, end = span
    starts, ends = offsets[:, 0], offsets[:, 1]
    first = np.searchsorted(starts, start, side="left")
    last = np.searchsorted(ends, end, side="right")
    empty = starts == ends
    while first < last and empty[first] and starts[first] == start:
        first += 1
    while first < last and empty[last - 1] and ends[last - 1] == end:
        last -= 1
    return slice(int(first), int(last))
