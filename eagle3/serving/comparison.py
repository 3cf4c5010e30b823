"""Whether speculation changed a greedy answer."""

from __future__ import annotations

from dataclasses import dataclass

from eagle3.serving.batched import Decoded

TIE = 1e-4  # a top-2 logit gap below this may fall either way between two orders of summation


@dataclass(frozen=True)
class Comparison:
    """Speculative against plain greedy output of one prompt."""

    identical: bool
    tie_at: int | None  # where they part at a near-tie of the target, else None


def compare(speculative: Decoded, plain: Decoded) -> Comparison:
    """Token for token; a difference is excused only at a near-tie of the target's logits."""
    if speculative.tokens == plain.tokens:
        return Comparison(True, None)
    pairs = zip(speculative.tokens, plain.tokens, strict=False)
    first = next((i for i, (a, b) in enumerate(pairs) if a != b), None)
    if first is not None and plain.gaps[first] < TIE:
        return Comparison(False, first)
    return Comparison(False, None)
