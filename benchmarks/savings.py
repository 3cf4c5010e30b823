"""The training step with one of its savings switched off, same result: what each is worth.

Each is a context in which the engine does the work that the saving leaves out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from unittest.mock import patch

import torch

from eagle3.draft.chains import exact, rms_norm
from eagle3.draft.halves import Embedded, HalvedDraft, Matrix
from eagle3.objective import rows, ttt
from eagle3.objective.pack import Pack
from eagle3.objective.places import Held
from eagle3.objective.rows import ActiveRows, StepRows
from eagle3.objective.scores import LossKind, Pairs, Scored
from eagle3.objective.teacher import Lesson, Teacher
from eagle3.target.reader import Head


@contextmanager
def every_row(pack: Pack, _head: Head) -> Iterator[None]:
    """All rows go through all steps, whether or not they have a loss."""
    true_rows, true_pairs = ttt.step_rows, ttt._pairs
    plans: list[ActiveRows] = []

    def all_rows(*args: Any) -> ActiveRows:
        plans.append(true_rows(*args))
        slots = torch.arange(len(pack.row_tokens), device=pack.aux.device)
        steps = [StepRows(slots, step.in_mask) for step in plans[-1].steps]
        last = torch.full_like(slots, len(steps) - 1)
        return ActiveRows(pack.row_tokens, last, last, steps)

    def pairs(
        active: ActiveRows, teacher: Teacher, held: Held
    ) -> tuple[Pairs, torch.Tensor, torch.Tensor]:
        plan = plans[-1]
        found, _, reached = true_pairs(plan, teacher, held)
        row = plan.tokens[found.teacher - found.step]
        size = len(active.steps[0].filled())
        return found, found.step * size + torch.searchsorted(pack.row_tokens, row), reached

    class Clamped(HalvedDraft):
        def projections(
            self, hidden: torch.Tensor, embedded: Embedded, index: torch.Tensor, at: torch.Tensor
        ) -> Any:  # the last rows have no token to read: any will do, they have no loss
            return super().projections(hidden, embedded, index.clamp(max=len(embedded.qkv) - 1), at)

    changes = {"step_rows": all_rows, "_pairs": pairs, "HalvedDraft": Clamped}
    with patch.multiple(ttt, **changes):
        yield


@contextmanager
def whole_projections(_pack: Pack, _head: Head) -> Iterator[None]:
    """q, k and v of the whole input at every step."""

    class Whole(HalvedDraft):
        def embedded(self, embedding: torch.Tensor, queried: torch.Tensor) -> Embedded:
            norm = self.layer.input_layernorm
            normed = rms_norm(embedding.to(self.dtype), norm.weight, norm.eps)
            both = (self.qkv_embedding, self.qkv_hidden)
            self.whole = Matrix(
                torch.cat([m.weight for m in both], 1), torch.cat([m.narrow for m in both], 1)
            )
            return Embedded(normed, normed[queried])

        def first_projections(
            self,
            hidden: torch.Tensor,
            embedded: Embedded,
            at: torch.Tensor,
            queried: torch.Tensor,
            _index: torch.Tensor,
        ) -> Any:
            x = torch.cat((embedded.kv, self.normed(hidden)), 1)
            q = self._heads(exact(self.whole.rows(0, self.query_width)(x[queried])))
            kv = self.whole.rows(self.query_width, len(self.whole.narrow))(x)
            k, v = self._heads(exact(kv)).chunk(2, dim=1)
            turned = self.turns(q, at[queried]), self.turns(k, at), v
            return tuple(t.to(self.dtype) for t in turned)

        def projections(
            self, hidden: torch.Tensor, embedded: Embedded, index: torch.Tensor, at: torch.Tensor
        ) -> Any:
            x = torch.cat((embedded.qkv[index], self.normed(hidden)), 1)
            qkv = self._heads(exact(self.whole(x)))
            turned = self.turns(qkv[:, : self.turned_heads], at).to(self.dtype)
            q, k = turned.split((self.heads, self.turned_heads - self.heads), dim=1)
            return q, k, qkv[:, self.turned_heads :].to(self.dtype)

    with patch.object(ttt, "HalvedDraft", Whole):
        yield


@contextmanager
def whole_vocabulary(_pack: Pack, head: Head) -> Iterator[None]:
    """The teacher over the target's whole vocabulary; argmax and log-sum-exp formed again."""
    true_lesson = Teacher.lesson

    def lesson(self: Teacher, chosen: torch.Tensor, logs: bool) -> Lesson:
        logits = head.exact_logits(self.last[chosen])
        logits.logsumexp(-1), logits.argmax(-1)
        return true_lesson(self, chosen, logs)

    with patch.object(Teacher, "lesson", lesson):
        yield


@contextmanager
def kept_logits(_pack: Pack, _head: Head) -> Iterator[None]:
    """All logits at once, and autograd for their gradient."""

    def scores(
        x: torch.Tensor, head: Matrix, pairs: Pairs, teacher: Teacher, kind: LossKind
    ) -> tuple[torch.Tensor, Scored]:
        logits = exact(head(x))  # [N, V_draft]
        unique, place = pairs.teacher.unique_consecutive(return_inverse=True)
        lesson = teacher.lesson(unique, logs=False)
        p = lesson.p[place]
        loss = -(p * logits.log_softmax(-1)).sum(-1)
        with torch.no_grad():
            own = p * lesson.on_draft[place][:, None]
            accepted = torch.minimum(own, logits.softmax(-1)).sum(-1)
            correct = logits.argmax(-1) == teacher.argmax[pairs.teacher]
        total = (loss * kind.weights.to(loss.dtype)[pairs.step]).sum()
        return total, Scored(loss.detach(), correct, accepted)

    with patch.object(ttt, "scores", scores):
        yield


@contextmanager
def odd_rows(_pack: Pack, _head: Head) -> Iterator[None]:
    """Row counts as they come."""
    with patch.multiple(rows, ROUND=1, ROUND_FEW=1):
        yield


SAVINGS: dict[str, Callable[[Pack, Head], AbstractContextManager[None]]] = {
    "active rows": every_row,
    "embedding half once": whole_projections,
    "draft vocabulary of the teacher": whole_vocabulary,
    "one pass over the vocabulary": kept_logits,
    "multiples of 64 rows": odd_rows,
}
