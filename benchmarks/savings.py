"""The training step with one of its savings switched off, with the same result.

Each is a context in which the engine does the work that the saving avoids.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from unittest.mock import patch

import torch

from eagle3.draft.training_forward import TrainingDraft
from eagle3.draft.training_layer import (
    EmbeddingProjections,
    MixedLinear,
    Projections,
    TrainingLayer,
)
from eagle3.kernels.fused_ops import at_least_fp32, rms_norm
from eagle3.kernels.gradient_sum import shared
from eagle3.objective import bucketing, dispatch, row_index, ttt
from eagle3.objective.head_loss import LossKind, PairResults, Pairs
from eagle3.objective.pack import Pack
from eagle3.objective.row_index import Prefixes, RowIndex, StepIndex, step_indices, whole_index
from eagle3.objective.rows import ActiveRows
from eagle3.objective.teacher import Teacher, TeacherProbs
from eagle3.target_model.reader import Head


@contextmanager
def every_row(pack: Pack, _head: Head) -> Iterator[None]:
    """All rows go through all steps, whether or not they have a loss."""
    true_rows, true_pairs = dispatch.step_rows, RowIndex.pairs
    true_plans: list[ActiveRows] = []

    def all_rows(*args: Any, **more: Any) -> ActiveRows:
        true_plans.append(true_rows(*args, **more))
        slots = torch.arange(len(pack.row_tokens), device=pack.aux.device)
        steps = len(true_plans[-1].slots)
        last = torch.full_like(slots, steps - 1)
        return ActiveRows(pack.row_tokens, last, last, last, [slots] * steps)

    def pairs(index: RowIndex, in_vocab: torch.Tensor) -> tuple[Pairs, torch.Tensor, torch.Tensor]:
        plan = true_plans[-1]
        full_index = whole_index(pack, plan, Prefixes.of(pack, plan))
        true_result, _, reachable = true_pairs(full_index, in_vocab)
        row = plan.tokens[true_result.teacher - true_result.step]
        size = len(index.steps[0].rows)
        positions = true_result.step * size + torch.searchsorted(pack.row_tokens, row)
        return true_result, positions, reachable

    with (
        patch.object(dispatch, "step_rows", all_rows),
        patch.object(RowIndex, "pairs", pairs),
        patch.object(row_index, "step_indices", clamped_indices),
    ):
        yield


def clamped_indices(
    pack: Pack,
    active: ActiveRows,
    slots: Sequence[torch.Tensor],
    rows: torch.Tensor,
    taught: torch.Tensor,
) -> list[StepIndex]:
    """Step indices that allow rows to read beyond the last one: these have no loss."""
    taught = torch.cat((taught, taught[-1:].expand(len(slots))))
    return step_indices(pack, active, slots, rows, taught)


@contextmanager
def whole_projections(_pack: Pack, _head: Head) -> Iterator[None]:
    """q, k and v of the whole input at every step."""

    class WholeLayer(TrainingLayer):
        whole: MixedLinear

        def first_projections(
            self,
            hidden: torch.Tensor,
            positions: torch.Tensor,
            queried: Any,
            reads: Any = None,
        ) -> Projections:
            x = torch.cat((reads.embedded.kv, self.normed(hidden)), 1)
            q = self.whole.rows(0, self.query_width)(x[queried])
            kv = self.whole.rows(self.query_width, len(self.whole.narrow))(x)
            (q,) = self._as_heads(q, None, positions[queried], (self.heads,), 0)
            k, v = self._as_heads(kv, None, positions, self.kv_parts, self.heads)
            return q, k, v

        def projections(
            self, hidden: torch.Tensor, positions: torch.Tensor, reads: Any = None
        ) -> Projections:
            x = torch.cat((reads.embedded.qkv[reads.index], self.normed(hidden)), 1)
            parts = (self.heads, *self.kv_parts)
            q, k, v = self._as_heads(self.whole(x), None, positions, parts, 0)
            return q, k, v

    class Whole(TrainingDraft):
        def project_embeddings(
            self, embedding: torch.Tensor, taught: torch.Tensor
        ) -> EmbeddingProjections:
            (layer,) = self.layers
            normed = rms_norm(embedding.to(self.dtype), self.input_norm.weight, self.input_norm.eps)
            layer.__class__ = WholeLayer
            linears = (self.qkv_embedding, layer.qkv)
            weight = torch.cat([m.weight for m in linears], 1)
            full = MixedLinear(*shared(weight), torch.cat([m.narrow for m in linears], 1))
            vars(layer)["whole"] = full
            return EmbeddingProjections.of(normed, normed[taught])

    with patch.object(ttt, "TrainingDraft", Whole):
        yield


@contextmanager
def whole_vocabulary(_pack: Pack, head: Head) -> Iterator[None]:
    """The teacher over the target's whole vocabulary; argmax and log-sum-exp computed again."""
    true_probs = Teacher.probs

    def probs(self: Teacher, rows: torch.Tensor, logs: bool) -> TeacherProbs:
        logits = head.exact_logits(self.last[rows])
        logits.logsumexp(-1), logits.argmax(-1)
        return true_probs(self, rows, logs)

    with patch.object(Teacher, "probs", probs):
        yield


@contextmanager
def kept_logits(_pack: Pack, _head: Head) -> Iterator[None]:
    """All logits at once, and autograd for their gradient."""

    def kept(
        x: torch.Tensor,
        weight: torch.Tensor,
        narrow: torch.Tensor,
        pairs: Pairs,
        teacher: Teacher,
        kind: LossKind,
    ) -> tuple[torch.Tensor, PairResults]:
        logits = at_least_fp32(MixedLinear.of(weight, narrow.dtype)(x))  # [N, V_draft]
        unique, teacher_index = pairs.teacher.unique_consecutive(return_inverse=True)
        probs = teacher.probs(unique, logs=False)
        p = probs.p[teacher_index]
        loss = -(p * logits.log_softmax(-1)).sum(-1)
        with torch.no_grad():
            target_p = p * probs.on_draft[teacher_index][:, None]
            accepted = torch.minimum(target_p, logits.softmax(-1)).sum(-1)
            correct = logits.argmax(-1) == teacher.argmax[pairs.teacher]
        total = (loss * kind.weights.to(loss.dtype)[pairs.step]).sum()
        return total, PairResults(loss.detach(), correct, accepted)

    with patch.object(ttt, "head_loss", kept):
        yield


@contextmanager
def odd_rows(_pack: Pack, _head: Head) -> Iterator[None]:
    """Row counts without padding."""
    with patch.multiple(bucketing, MULTIPLE=1, FEW_MULTIPLE=1):
        yield


SAVINGS: dict[str, Callable[[Pack, Head], AbstractContextManager[None]]] = {
    "active rows": every_row,
    "embedding half once": whole_projections,
    "draft vocabulary of the teacher": whole_vocabulary,
    "one pass over the vocabulary": kept_logits,
    "multiples of 64 rows": odd_rows,
}
