"""The teacher: the target's next-token distribution on the draft vocabulary.

Computed from the stored post-norm states, only for rows that have a loss and draft-vocabulary rows
of the head, once for all TTT steps and in chunks, so it is never stored. Values that need the full
vocabulary (argmax, log-sum-exp) were stored by capture.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from eagle3.kernels.compiled import compiled_on_cuda
from eagle3.target_model.reader import Head


@dataclass(frozen=True)
class TeacherProbs:
    """Distributions of some teacher rows."""

    p: torch.Tensor  # [r, V_draft], renormalised on the draft vocabulary
    on_draft: torch.Tensor  # [r], the target's own mass on the draft vocabulary
    entropy: torch.Tensor  # [r], of p, in nats
    log_p: torch.Tensor  # [r, V_draft], or [r, 0] where the loss does not need it

    def rows(self, index: torch.Tensor, dtype: torch.dtype) -> TeacherProbs:
        """Rows `index` int64 [N], new tensors of type `dtype`."""
        return TeacherProbs(*(tensor[index].to(dtype) for tensor in vars(self).values()))


@dataclass(frozen=True)
class Teacher:
    """Inputs of the distributions, for the R teacher rows of a pack."""

    last: torch.Tensor  # [R, H]
    lse: torch.Tensor  # float32 [R], of the full vocabulary
    argmax: torch.Tensor  # int64 [R], draft id of the target's argmax, -1 outside
    head: Head  # on the draft vocabulary

    def probs(self, rows: torch.Tensor, logs: bool) -> TeacherProbs:
        """The distributions of `rows` int64 [r]."""
        logits = self.head.exact_logits(self.last[rows])  # [r, V_draft]
        p, on_draft, entropy, lse = distributions(logits, self.lse[rows])
        log_p = logits.sub_(lse[:, None]) if logs else logits[:, :0]
        return TeacherProbs(p, on_draft, entropy, log_p)


@compiled_on_cuda
def distributions(
    logits: torch.Tensor,  # [r, V_draft]
    whole_lse: torch.Tensor,  # [r], log-sum-exp over the full vocabulary
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """p, on_draft and entropy of `TeacherProbs`, and the log-sum-exp of the logits [r]."""
    p = logits.softmax(-1)
    # the logarithm of the largest p is the most exact
    lse = logits.amax(-1) - p.amax(-1).log()
    # at most one up to rounding: both follow from the stored state
    on_draft = (lse - whole_lse).exp().clamp(max=1.0)
    entropy = lse - torch.linalg.vecdot(p, logits)  # sum p (lse - logits)
    return p, on_draft, entropy, lse
