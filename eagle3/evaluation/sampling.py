"""Speculative sampling: a verify pass keeps draft tokens so that the text is the target's.

Let p be the target's distribution at a position, and q the one from which draft token d was drawn.
d is kept with probability min(1, p(d) / q(d)). At the first one that is rejected, the token comes
from the residual max(p - q, 0), renormalised; after a fully accepted chain, it comes from p.
(Leviathan et al., arXiv:2211.17192.) Two kinds of proposals:

    sampled   d is drawn from the draft's softmax, q
    argmax    d is the draft's best token, so q is one there and zero elsewhere: d is kept with
              probability p(d), else the token is drawn from p without d. SGLang's default.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen; temperature 0 is greedy."""

    temperature: float = 0.0
    proposals: str = "argmax"  # or sampled
    seed: int = 0

    @property
    def greedy(self) -> bool:
        return self.temperature == 0


def draw(p: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """int64 [N]: a token from each row of p [N, V], which need not be normalised, by `uniform` [N]
    in [0, 1). A token of zero weight is never drawn."""
    mass = p.double().cumsum(-1)
    threshold = (uniform.to(mass)[:, None] * mass[:, -1:]).contiguous()
    return torch.searchsorted(mass, threshold, right=True)[:, 0].clamp(max=p.shape[-1] - 1)


def verify(
    p: torch.Tensor,
    drafts: torch.Tensor,
    q: torch.Tensor | None,
    target_ids: torch.Tensor,
    uniform: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The number of accepted drafts of each sequence, and the token after them, int64 [B] each.

    p [B, n + 1, V]: the target's distributions; drafts int64 [B, n]; q [B, n, V_draft]: what they
    were drawn from, None for argmax proposals; target_ids int64 [V_draft]; uniform [B, n + 1] in
    [0, 1): n for the drafts, the last for the token.
    """
    count = drafts.shape[1]
    target_probability = p[:, :count].gather(-1, drafts[..., None])[..., 0]  # [B, n]
    draft_probability = torch.ones_like(target_probability)
    if q is not None:
        draft_probability = q.gather(
            -1, torch.searchsorted(target_ids, drafts.contiguous())[..., None]
        )[..., 0]
    # u < p / q without a division: q(d) > 0, since d was drawn
    keeps = uniform[:, :count].to(p) * draft_probability < target_probability
    accepted = keeps.long().cumprod(-1).sum(-1)  # [B]
    rows = torch.arange(len(p), device=p.device)
    distribution = p[rows, accepted].clone()  # [B, V]
    rejected = (accepted < count).nonzero()[:, 0]
    if len(rejected):
        position = accepted[rejected]
        residual = distribution[rejected]
        if q is None:
            residual.scatter_(1, drafts[rejected, position][:, None], 0.0)
        else:
            residual[:, target_ids] -= q[rejected, position]
            residual.clamp_(min=0.0)
        # p and q are equal up to rounding: a draw from p is correct
        empty = residual.sum(-1, keepdim=True) <= 0
        distribution[rejected] = torch.where(empty, distribution[rejected], residual)
    return accepted, draw(distribution, uniform[:, count])


def verify_greedy(choices: torch.Tensor, drafts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`verify` for the target's greedy choices int64 [B, n + 1]."""
    matches = drafts == choices[:, : drafts.shape[1]]
    accepted = matches.long().cumprod(-1).sum(-1)
    return accepted, choices.gather(1, accepted[:, None])[:, 0]
