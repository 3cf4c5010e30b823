"""Loss masks of other projects, reduced to the tokens that the target emits, as this one has them.

    SpecForge     ...<|im_start|>assistant \\n  Tea  .  <|im_end|> \\n  <|im_start|>user...
    its mask                                    1    1      1      1
    here                                        1    1      1      0     generation has stopped

An answer begins after the prompt that a server sends: where a mask begins inside it (at a `<think>`
that the prompt already has), that part is dropped. It ends with the first token at which the target
stops. Nothing is ever added to a mask.
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

LEAST_ALIKE = 0.5  # least share of answers that begin, and that end, as in the template


@dataclass(frozen=True)
class Fit:
    """How well masks agree with the target's chat template."""

    answers: int = 0
    begun: int = 0  # answers right after the template's generation prompt
    inner: int = 0  # answers followed by another, which are complete
    ended: int = 0  # inner answers that end with a stop token
    after_stop: int = 0  # tokens that a mask had after a stop token
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

    prompt: tuple[int, ...]  # tokens after which the target begins to write; may be empty
    stop: frozenset[int]

    def trimmed(self, ids: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, Fit]:
        """uint8 [L]: the mask without what the target does not emit, and how well it fits."""
        trimmed, fit = np.zeros(len(mask), dtype=np.uint8), Fit()
        last = int(np.flatnonzero(mask)[-1]) if mask.any() else -1
        for start, stop in runs_of(mask):
            begin = self._begin(ids, start, stop)
            inside = ids[start if begin is None else begin : stop].tolist()
            length = next((n + 1 for n, token in enumerate(inside) if token in self.stop), None)
            first = start if begin is None else begin
            end = stop if length is None else first + length
            trimmed[first:end] = 1
            inner = stop <= last
            fit += Fit(
                1, begin is not None, inner, inner and length is not None, stop - end, first - start
            )
        return trimmed, fit

    def _begin(self, ids: np.ndarray, start: int, stop: int) -> int | None:
        """Where the answer with the mask [start, stop) begins; None if no prompt precedes it."""
        size = len(self.prompt)
        if not size:
            return start
        # the mask may cover any part of the prompt, and all of it
        for begin in range(start, min(start + size + 1, stop)):
            if begin >= size and tuple(ids[begin - size : begin].tolist()) == self.prompt:
                return begin
        return None


def runs_of(mask: np.ndarray) -> list[tuple[int, int]]:
    """Start and stop of each run of ones."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask, [0]]).astype(np.int8)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def tokenized(
    name: str, document: PeerDocument, answers: Answers, max_length: int, last_turn: bool
) -> tuple[TokenizedDocument, Fit]:
    """A document as a token shard has it, cut after its last supervised token, since nothing after
    that is ever read.

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

    `tokens`: the section that chooses the template. Raises UserError if the tokenizer has no
    template, or not the named one.
    """
    tokenizer, stop = load_tokenizer(directory, trusted), stop_ids(directory, config)
    header = Renderer.of(tokenizer, tokens, stop).header
    prompt = tokenizer(header, add_special_tokens=False)["input_ids"]
    return Answers(tuple(prompt), frozenset(stop))


def total(fits: Iterable[Fit]) -> Fit:
    """The sum of all."""
    return sum(fits, Fit())


def sentence(fit: Fit) -> str:
    """What does not fit, for messages."""
    if fit.begun < LEAST_ALIKE * fit.answers:
        return f"{fit.begun} of {fit.answers} answers begin behind the template's generation prompt"
    return f"{fit.ended} of {fit.inner} answers before another turn end with a stop token"
