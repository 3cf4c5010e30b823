"""Acceptance length and its kin, from what chain decoding counted.

    acceptance length          tokens committed by verify passes / verify passes
    per_position_acceptance[i] share of verify passes whose first i + 1 drafts were accepted
    acceptance length        = 1 + sum of per_position_acceptance

The token that comes from the prompt's own pass is in neither. In a pass that ends the answer the
stop token counts as the target's own, so drafts behind it are never counted as accepted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from eagle3.serving.chain import Decoded

TIE = 1e-4  # a top-2 logit gap below this may fall either way between two orders of summation
RESAMPLES = 2000


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


def acceptance(committed: Sequence[Sequence[int]], num_draft_tokens: int) -> dict[str, Any]:
    """Figures over prompts; `committed[i]` holds the counts of prompt i's verify passes."""
    flat = np.array([count for prompt in committed for count in prompt], dtype=np.int64)
    passes = max(len(flat), 1)
    return {
        "acceptance_length": float(flat.sum() / passes),
        "acceptance_length_ci95": bootstrap_interval(committed),
        "per_position_acceptance": [
            float((flat >= i + 2).sum() / passes) for i in range(num_draft_tokens)
        ],
        "accepted_histogram": np.bincount(flat - 1, minlength=num_draft_tokens + 1).tolist(),
        "verify_passes": len(flat),
    }


def unigram_acceptance(answers: Iterable[Sequence[int]]) -> float:
    """Share of first drafts that would be accepted if the most frequent token of the `answers` were
    always proposed: what a draft has to beat. The first token of each comes from the prompt."""
    counts = Counter(token for answer in answers for token in answer[1:])
    return max(counts.values(), default=0) / max(counts.total(), 1)


def bootstrap_interval(committed: Sequence[Sequence[int]], seed: int = 0) -> list[float]:
    """95 % interval of the acceptance length, resampling whole prompts."""
    sums = np.array([sum(prompt) for prompt in committed], dtype=np.float64)
    passes = np.array([len(prompt) for prompt in committed], dtype=np.float64)
    if passes.sum() == 0:
        return [0.0, 0.0]
    drawn = np.random.default_rng(seed).integers(0, len(sums), (RESAMPLES, len(sums)))
    drawn_passes = passes[drawn].sum(1)
    ratios = sums[drawn].sum(1)[drawn_passes > 0] / drawn_passes[drawn_passes > 0]
    low, high = np.quantile(ratios, [0.025, 0.975])
    return [float(low), float(high)]
