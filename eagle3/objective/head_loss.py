"""Head, loss, choice and acceptance of all TTT steps in one pass over the vocabulary.

The pairs (row, step) are processed in chunks of consecutive teacher rows. For each chunk the
teacher's distributions are computed once, then the draft's logits, their loss and its gradient, and
from that the gradients of the head's input and weight. No tensor as wide as the vocabulary outlives
its chunk, so memory does not grow with steps times vocabulary.

    teacher row    7    8    9          pairs with a loss (step of each)
    chunk          [--------]           7: 0 1 2    8: 0 1    9: 0 1 2 3
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from eagle3.kernels.fused_ops import at_least_fp32
from eagle3.kernels.matmul import add_weight_gradient, times_transposed, weight_gradient
from eagle3.objective.host_tensors import tree_to_device
from eagle3.objective.losses import WITH_LOGS, row_losses
from eagle3.objective.teacher import Teacher

CHUNK_BYTES = {"cpu": 4 * 2**20, "cuda": 512 * 2**20}  # of logits; a few tensors are as large
FEWEST_ROWS = 64


@dataclass(frozen=True)
class Pairs:
    """Rows with a loss, ordered by teacher row."""

    teacher: torch.Tensor  # int64 [N], teacher row of each, ascending
    step: torch.Tensor  # int64 [N]
    host: Pairs | None = None  # the same on the host, where they were made


@dataclass(frozen=True)
class PairResults:
    """Results by pair."""

    loss: torch.Tensor  # [N]
    correct: torch.Tensor  # bool [N], no logit is above that of the target's choice
    accepted: torch.Tensor  # [N]


@dataclass(frozen=True)
class LossKind:
    """The loss, and its weights by step."""

    name: str
    weights: torch.Tensor  # [K]
    mix: torch.Tensor  # [K], l of lk_hybrid


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        narrow: torch.Tensor,
        pairs: Pairs,
        teacher: Teacher,
        kind: LossKind,
    ) -> tuple[torch.Tensor, ...]:
        wide_dtype = at_least_fp32(narrow[:0]).dtype
        dx = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        dweight: torch.Tensor | None = None
        loss, accepted = (x.new_empty(len(x), dtype=wide_dtype) for _ in range(2))
        correct = x.new_empty(len(x), dtype=torch.bool)
        for span, rows, teacher_index in _chunks(pairs, len(narrow)):
            probs = teacher.probs(rows, logs=kind.name in WITH_LOGS)
            step = pairs.step[span]
            logits = times_transposed(x[span], narrow)  # [n, V_draft]
            target_logit = logits.gather(-1, teacher.argmax[pairs.teacher[span], None])[:, 0]
            losses = row_losses(
                kind.name, logits, probs, teacher_index, kind.mix.to(wide_dtype)[step]
            )
            loss[span], accepted[span] = losses.loss, losses.accepted
            correct[span] = target_logit == losses.top
            step_weight = kind.weights.to(wide_dtype)[step, None]
            dlogits = losses.gradient
            if dx is not None:
                dx[span] = times_transposed(dlogits, narrow.t()) * step_weight.to(x.dtype)
            if ctx.needs_input_grad[1]:  # a frozen head takes none
                weighted = (x[span] * step_weight).to(x.dtype)
                if dweight is None:
                    dweight = weight_gradient(dlogits, weighted, weight.dtype)
                else:
                    add_weight_gradient(dweight, dlogits, weighted)
        ctx.save_for_backward(dx, dweight)
        ctx.mark_non_differentiable(loss, correct, accepted)
        total = torch.dot(loss, kind.weights.to(wide_dtype)[pairs.step])
        return total, loss, correct, accepted

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        dx, dweight = ctx.saved_tensors
        scale = grads[0]
        dx = None if dx is None else dx.mul_(scale.to(dx.dtype))
        dweight = None if dweight is None else dweight.mul_(scale)
        return dx, dweight, None, None, None, None


def head_loss(
    x: torch.Tensor,  # [N, H], what the head reads for each pair
    weight: torch.Tensor,  # [V_draft, H], of the head
    narrow: torch.Tensor,  # the same in the type of products
    pairs: Pairs,
    teacher: Teacher,
    kind: LossKind,
) -> tuple[torch.Tensor, PairResults]:
    """Weighted sum of the losses of the pairs, and its parts."""
    weight = weight if torch.is_grad_enabled() else weight.detach()
    total, *results = _HeadLoss.apply(x, weight, narrow, pairs, teacher, kind)
    return total, PairResults(*results)


def _chunks(pairs: Pairs, vocab: int) -> list[tuple[slice, torch.Tensor, torch.Tensor]]:
    """Ranges of pairs, each with its teacher rows int64 [r] and the index among these of every
    pair."""
    device, teacher = pairs.teacher.device, (pairs.host or pairs).teacher
    size = max(CHUNK_BYTES[device.type] // (4 * vocab), FEWEST_ROWS)
    stretches = [slice(n, min(n + size, len(teacher))) for n in range(0, len(teacher), size)]
    teacher_rows = [teacher[span].unique_consecutive(return_inverse=True) for span in stretches]
    if pairs.host is not None:
        teacher_rows = tree_to_device(teacher_rows, device)
    return [(span, *indices) for span, indices in zip(stretches, teacher_rows, strict=True)]
