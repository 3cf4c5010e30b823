"""Acceptance length and related figures, from the counts of chain decoding.

    acceptance length          tokens committed by verify passes / verify passes
    per_position_acceptance[i] share of verify passes whose first i + 1 drafts were accepted
    acceptance length        = 1 + sum of per_position_acceptance

Neither includes the token of the prompt's own pass. In a pass that ends the answer, the stop token
counts as the target's own, so drafts after it are never counted as accepted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

KIND, BEST = "evaluation", "best-stage"
METRIC = "acceptance_length"  # selects the best stage
OF_STAGE = (
    *("stage", "epochs_done", METRIC, f"{METRIC}_ci95", "per_position_acceptance"),
    "stopped_early",
)
RESAMPLES = 2000


def acceptance(committed: Sequence[Sequence[int]], num_speculative_tokens: int) -> dict[str, Any]:
    """Figures over prompts; `committed[i]` holds the counts of prompt i's verify passes."""
    flat = np.array([count for prompt in committed for count in prompt], dtype=np.int64)
    passes = max(len(flat), 1)
    return {
        "acceptance_length": float(flat.sum() / passes),
        "acceptance_length_ci95": bootstrap_interval(committed),
        "per_position_acceptance": [
            float((flat >= i + 2).sum() / passes) for i in range(num_speculative_tokens)
        ],
        "accepted_histogram": np.bincount(flat - 1, minlength=num_speculative_tokens + 1).tolist(),
        "verify_passes": len(flat),
    }


def unigram_acceptance(answers: Iterable[Sequence[int]]) -> float:
    """Share of first drafts that would be accepted if the most frequent token of the `answers` were
    always proposed: a baseline. The first token of each answer comes from the prompt's pass."""
    counts = Counter(token for answer in answers for token in answer[1:])
    return max(counts.values(), default=0) / max(counts.total(), 1)


def unlearned(figures: Mapping[str, Any]) -> str | None:
    """A sentence if a draft with these evaluation figures is no better than the baseline."""
    first, unigram = figures["per_position_acceptance"][0], figures["unigram_acceptance"]
    if first > unigram:
        return None
    return (
        f"the draft's first token is accepted in {first:.1%} of the passes, no better than always "
        f"proposing the most frequent token ({unigram:.1%}): it has learned nothing, or belongs "
        "to another target; look at the loss and at tokens.chat_template"
    )


def bootstrap_interval(committed: Sequence[Sequence[int]], seed: int = 0) -> list[float]:
    """95 % interval of the acceptance length, resampling whole prompts."""
    sums = np.array([sum(prompt) for prompt in committed], dtype=np.float64)
    passes = np.array([len(prompt) for prompt in committed], dtype=np.float64)
    if passes.sum() == 0:
        return [0.0, 0.0]
    indices = np.random.default_rng(seed).integers(0, len(sums), (RESAMPLES, len(sums)))
    resampled_passes = passes[indices].sum(1)
    ratios = sums[indices].sum(1)[resampled_passes > 0] / resampled_passes[resampled_passes > 0]
    low, high = np.quantile(ratios, [0.025, 0.975])
    return [float(low), float(high)]


def rows_acceptance(accepted: np.ndarray, counted: np.ndarray) -> dict[str, object]:
    """Figures over rows that each represent a verify pass, int64 [D, K] by document and depth:
    rows whose first k + 1 drafts are accepted, and rows that count at depth k."""

    def shares(weights: np.ndarray) -> np.ndarray:
        """[.., D] -> [.., K]; a depth that no row reaches accepts nothing"""
        return (weights @ accepted) / np.maximum(weights @ counted, 1)

    documents = len(accepted)
    share = shares(np.ones(documents))
    resampled = np.random.default_rng(0).multinomial(
        documents, np.full(documents, 1 / documents), RESAMPLES
    )
    low, high = np.quantile(1 + shares(resampled).sum(-1), [0.025, 0.975])
    return {
        "acceptance_length": float(1 + share.sum()),
        "acceptance_length_ci95": [float(low), float(high)],
        "per_position_acceptance": share.tolist(),
        "rows": int(counted[:, 0].sum()),
        "rows_at": counted.sum(0).tolist(),
    }


def choose(scores: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The best stage, the earliest of equals, and the figures of all.

    `scores`: the result of `held_out.simulate` for each stage, with its number.
    """
    best = max(scores, key=lambda score: (score[METRIC], -score["stage"]))
    stages = [
        {key: score[key] for key in OF_STAGE} | {"walk_acceptance_length": score["walk"][METRIC]}
        for score in scores
    ]
    return {"stage": best["stage"], "metric": METRIC, "stages": stages}
