"""An estimate of the speed-up that an acceptance length brings, from parameter counts alone.

With one request at a time, an engine waits for weights: a pass costs the bytes that it reads,
whether it checks one token or six. Let c = parameters that a draft step reads / parameters that a
pass of the target reads (both in the same precision), p_i the share of verify passes whose first i
draft tokens were accepted, and g draft tokens per round. Then

    speed-up(g) = (1 + p_1 + ... + p_g) / (1 + g c)

It ignores key/value caches, kernel launches and sampling, and that more tokens activate more
experts of a mixture. With many concurrent requests arithmetic dominates, and the gain falls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Estimate:
    """Speed-ups by length of the chain."""

    cost: float  # c: a draft step in passes of the target
    by_length: tuple[float, ...]  # of chains of 1, 2, ... drafts

    @property
    def best_length(self) -> int:
        return self.by_length.index(self.best) + 1

    @property
    def best(self) -> float:
        return max(self.by_length)

    @property
    def pays(self) -> bool:
        """Whether serving with the draft is faster than without."""
        return self.best > 1


def estimate(
    per_position: Sequence[float], draft_parameters: float, target_parameters: float
) -> Estimate:
    """`per_position`: p_1, p_2, ... as measured by chain decoding."""
    cost = draft_parameters / target_parameters
    committed, speedups = 1.0, []
    for length, share in enumerate(per_position, start=1):
        committed += share
        speedups.append(committed / (1 + length * cost))
    return Estimate(cost, tuple(speedups))


def estimate_of(evaluation: Mapping[str, Any], plan: Mapping[str, Any]) -> Estimate:
    """The estimate for a run with these figures and this plan."""
    shares = evaluation["per_position_acceptance"]
    return estimate(shares, plan["draft_parameters"], plan["target_parameters"])
