"""Loss masks of other projects, brought to what this one means by a mask: what the target emits.

    SpecForge     ...<|im_start|>assistant \\n  Tea  .  <|im_end|> \\n  <|im_start|>user...
    its mask                                    1    1      1      1
    here                                        1    1      1      0     generation has stopped

An answer begins behind the prompt that a server gives: where a mask begins inside it (a `<think>`
that the prompt already holds), that part is dropped. It ends with the first token at which the
target stops. Nothing is ever added to a mask.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eagle3.data.faults import BadRow
from eagle3.data.masks import TokenizedDocument
from eagle3.data.templates import Renderer
from eagle3.imports.document import PeerDocument
from eagle3.target_model.config import stop_ids
from eagle3.target_model.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from eagle3.config.tokens import Tokens

LEAST_ALIKE = 0.5  # share of answers that begin, and of answers that end, as the template has them


@dataclass(frozen=True)
class Fit:
    """How well masks agree with the target's chat template."""

    answers: int = 0
    begun: int = 0  # answers behind the template's own generation prompt
    inner: int = 0  # answers with text of another turn behind them, so they are whole
    ended: int = 0  # of those, answers that end with a stop token
    after_stop: int = 0  # tokens that a mask had behind a stop token
    in_prompt: int = 0  # tokens that a mask had inside the prompt

    def __add__(self, other: Fit) -> Fit:
        pairs = zip(astuple(self), astuple(other), strict=True)
        return Fit(*(one + two for one, two in pairs))

    @property
    def alike(self) -> bool:
        """Whether most answers begin and end as the target's do."""
        begins = self.begun >= LEAST_ALIKE * self.answers
        return begins and self.ended >= LEAST_ALIKE * self.inner


@dataclass(frozen=True)
class Answers:
    """Where answers of the target begin and end."""

    prompt: tuple[int, ...]  # tokens behind which a server lets the target begin; may be empty
    stop: frozenset[int]

    def trimmed(self, ids: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, Fit]:
        """uint8 [L]: the mask without what the target does not emit, and how well it agrees."""
        kept, fit = np.zeros(len(mask), dtype=np.uint8), Fit()
        last = int(np.flatnonzero(mask)[-1]) if mask.any() else -1
        for start, stop in runs_of(mask):
            begin = self._begin(ids, start, stop)
            inside = ids[start if begin is None else begin : stop].tolist()
            length = next((n + 1 for n, token in enumerate(inside) if token in self.stop), None)
            first = start if begin is None else begin
            end = stop if length is None else first + length
            kept[first:end] = 1
            whole = stop <= last
            fit += Fit(
                1, begin is not None, whole, whole and length is not None, stop - end, first - start
            )
        return kept, fit

    def _begin(self, ids: np.ndarray, start: int, stop: int) -> int | None:
        """Where the answer begins whose mask is [start, stop); None if no prompt is before it."""
        size = len(self.prompt)
        if not size:
            return start
        for begin in range(start, min(start + size, stop)):
            if begin >= size and tuple(ids[begin - size : begin].tolist()) == self.prompt:
                return begin
        return None


def runs_of(mask: np.ndarray) -> list[tuple[int, int]]:
    """First place of each run of ones, and the place after its last."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask, [0]]).astype(np.int8)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def tokenized(
    name: str, document: PeerDocument, answers: Answers, max_length: int, last_turn: bool
) -> tuple[TokenizedDocument, Fit]:
    """A document as a token shard has it, without padding: it is cut after its last supervised
    token, since nothing behind that is ever read.

    Raises BadRow if no token is supervised.
    """
    mask, fit = answers.trimmed(document.input_ids, document.loss_mask)
    if last_turn:
        for start, stop in runs_of(mask)[:-1]:
            mask[start:stop] = 0
    truncated = bool(mask[max_length:].any())
    supervised = np.flatnonzero(mask[:max_length])
    if not len(supervised):
        raise BadRow("no supervised token" + (" within max_length" if truncated else ""))
    end = int(supervised[-1]) + 1
    ids = document.input_ids[:end].astype(np.int32)
    return TokenizedDocument(name, ids, mask[:end], truncated), fit


def answers_of_target(directory: Path, config: Any, tokens: Tokens, trusted: bool) -> Answers:
    """Where answers of the target in a directory begin and end.

    `tokens`: keys of the section that choose the template. Raises UserError if the tokenizer has no
    template, or another one than the named.
    """
    tokenizer, stop = load_tokenizer(directory, trusted), stop_ids(directory, config)
    header = Renderer.of(tokenizer, tokens, stop).header
    prompt = tokenizer(header, add_special_tokens=False)["input_ids"]
    return Answers(tuple(prompt), frozenset(stop))


def total(fits: Iterable[Fit]) -> Fit:
    """All of them together."""
    return sum(fits, Fit())


def sentence(fit: Fit) -> str:
    """What does not agree, for people."""
    if fit.begun < LEAST_ALIKE * fit.answers:
        return f"{fit.begun} of {fit.answers} answers begin behind the template's generation prompt"
    return f"{fit.ended} of {fit.inner} answers before another turn end with a stop token"
