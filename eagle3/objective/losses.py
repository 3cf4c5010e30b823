"""Losses between the draft's distribution q and the teacher's p, row by row, with their gradients.

    soft_ce     -sum p log q                          the EAGLE-3 paper's
    kl          sum p log(p / q)                      the same gradient, zero at its best
    reverse_kl  sum q log(q / p)
    tv          1 - a,  a = sum min(P, q)             a: the chance that sampling accepts
    lk_alpha    -log a                                LK losses, arXiv:2602.23881
    lk_hybrid   l kl + (1 - l) tv,  l = exp(-eta a_k), a_k the mean of a at step k

p is renormalised on the draft vocabulary, P is the target's own probability of the same tokens.
Gradients are with respect to logits, computed while q is available; autograd would need three more
passes over [N, V]. Sums are in at least float32. On CUDA a single kernel reads logits in the type
of the head and gathers teacher rows, and the only tensor as wide as the vocabulary that it stores
is the gradient (two for losses other than cross-entropy).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from eagle3.kernels.compiled import compiled_on_cuda
from eagle3.kernels.fused_ops import at_least_fp32
from eagle3.objective.teacher import TeacherProbs

LOSSES = ("soft_ce", "kl", "reverse_kl", "tv", "lk_alpha", "lk_hybrid")
WITH_LOGS = ("reverse_kl",)  # those that need log p


@dataclass(frozen=True)
class RowLosses:
    """Losses of N rows."""

    loss: torch.Tensor  # [N]
    accepted: torch.Tensor  # [N], a
    top: torch.Tensor  # [N], the largest logit
    gradient: torch.Tensor  # [N, V_draft], d loss / d logits, in their type


@compiled_on_cuda
def row_losses(
    kind: str,
    logits: torch.Tensor,  # [N, V_draft]; may be overwritten
    teacher: TeacherProbs,  # of teacher rows
    teacher_index: torch.Tensor,  # int64 [N], which of them each row has
    mix: torch.Tensor,  # [N], l of lk_hybrid
) -> RowLosses:
    """The loss `kind` of each row, and its gradient."""
    narrow, logits = logits.dtype, at_least_fp32(logits)
    teacher = teacher.rows(teacher_index, logits.dtype)  # copies, which are overwritten
    top = logits.amax(-1)
    p, on_draft = teacher.p, teacher.on_draft[:, None]
    if kind == "reverse_kl":
        log_q = logits.log_softmax(-1)
        q = log_q.exp()
        ratio = log_q.sub_(teacher.log_p)
        loss = torch.linalg.vecdot(q, ratio)
        accepted = torch.minimum(p.mul_(on_draft), q, out=p).sum(-1)
        gradient = ratio.sub_(loss[:, None]).mul_(q)
        return RowLosses(loss, accepted, top, gradient.to(narrow))
    expected_logit = torch.linalg.vecdot(p, logits)
    q = torch.softmax(logits, -1, out=logits)
    # log-sum-exp of the logits from the largest q, whose logarithm is the most exact
    cross_entropy = top - q.amax(-1).log() - expected_logit
    ce_gradient = q - p  # d cross entropy / d logits
    target_p = p.mul_(on_draft)  # P
    if kind in ("soft_ce", "kl"):
        loss = cross_entropy - teacher.entropy if kind == "kl" else cross_entropy
        accepted = torch.minimum(target_p, q, out=target_p).sum(-1)
        return RowLosses(loss, accepted, top, ce_gradient.to(narrow))
    accepted = torch.minimum(target_p, q).sum(-1)
    # d tv / d logits = q (sum q [q < P] - [q < P])
    below = (q < target_p).to(q.dtype)
    inside = torch.linalg.vecdot(below, q)[:, None]
    tv_gradient = (inside - below).mul_(q)
    if kind == "tv":
        return RowLosses(1 - accepted, accepted, top, tv_gradient.to(narrow))
    if kind == "lk_alpha":
        safe = accepted.clamp_min(torch.finfo(q.dtype).tiny)
        gradient = tv_gradient.div_(safe[:, None])
        return RowLosses(-safe.log(), accepted, top, gradient.to(narrow))
    share = mix[:, None]
    loss = mix * (cross_entropy - teacher.entropy) + (1 - mix) * (1 - accepted)
    gradient = ce_gradient.mul_(share).addcmul_(tv_gradient, 1 - share)
    return RowLosses(loss, accepted, top, gradient.to(narrow))


def step_weights(steps: int, decay: float) -> list[float]:
    """decay^k for k = 0..steps-1, normalised to sum to one."""
    raw = [decay**k for k in range(steps)]
    return [weight / sum(raw) for weight in raw]
