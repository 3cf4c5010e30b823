"""Training-time test: the draft is trained on its own outputs, step by step.

    loss = (1 / n_0) sum_k w_k sum_{t in A_k, teacher argmax in the draft vocabulary} l(t, k)

n_0 = |A_0| over everything that one optimiser step sees. It follows from masks alone, so neither
padding, packing, accumulation nor the number of ranks changes a gradient. After step 0 only
active rows are computed at all; step 0 computes keys and values for every row.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch

from eagle3.draft.model import Eagle3Draft
from eagle3.objective.attention import Segments, prefix_attention
from eagle3.objective.losses import soft_cross_entropy, step_weights
from eagle3.objective.pack import Pack
from eagle3.objective.rows import StepRows, step_rows
from eagle3.objective.teacher import Teacher, build_teacher
from eagle3.target.reader import Head


@dataclass(frozen=True)
class TargetParts:
    """What training keeps of the target, none of it trained."""

    embedding: torch.Tensor  # [V, H]
    head: Head  # on the draft vocabulary, [V_draft, H]
    draft_ids: torch.Tensor  # int64 [V], -1 outside the draft vocabulary


@dataclass
class StepTotals:
    """Sums per TTT step, all [K]; they add up over packs and ranks."""

    loss: torch.Tensor  # sum of l(t, k) over trained rows
    correct: torch.Tensor  # draft argmax equals the target's
    accepted: torch.Tensor  # sum of min(p, q): acceptance when sampling
    trained: torch.Tensor  # rows with a loss
    active: torch.Tensor  # |A_k|
    in_mask: torch.Tensor  # rows the mask allows: the denominator of metrics

    @classmethod
    def zeros(cls, steps: int, device: torch.device | str = "cpu") -> StepTotals:
        return cls(*(torch.zeros(steps, dtype=torch.float64, device=device) for _ in fields(cls)))

    def stacked(self) -> torch.Tensor:
        """[6, K], to be reduced over ranks in one call."""
        return torch.stack([getattr(self, f.name) for f in fields(self)])

    @classmethod
    def unstacked(cls, stacked: torch.Tensor) -> StepTotals:
        return cls(*stacked.unbind())

    def add(self, other: StepTotals) -> None:
        for f in fields(self):
            getattr(self, f.name).add_(getattr(other, f.name))


def ttt_loss(
    draft: Eagle3Draft, pack: Pack, target: TargetParts, steps: int, decay: float
) -> tuple[torch.Tensor, StepTotals]:
    """sum_k w_k sum_t l(t, k) of one pack (to be divided by n_0), and its totals."""
    teacher = build_teacher(pack, target.head, target.draft_ids)
    plan = step_rows(pack.input_ids, pack.loss_mask, pack.documents, target.draft_ids >= 0, steps)
    row_of_token = _inverse(pack.row_tokens, len(pack.input_ids))
    last_of_token = _inverse(pack.last_tokens, len(pack.input_ids))
    keys = _per_document(pack.documents[pack.row_tokens], pack.documents)
    totals = StepTotals.zeros(steps, pack.aux.device)
    loss = torch.zeros((), device=pack.aux.device, dtype=torch.float32)

    hidden = draft.fc(_floating(pack.aux, draft))  # [T, H], g_t of every row
    x = draft.layer_input(_tokens_in(pack, target, pack.row_tokens, 0), hidden)  # [T, 2H]
    k0, v0 = draft.keys_values(x, pack.positions[pack.row_tokens])
    first = row_of_token[plan[0].tokens]
    hidden, x = hidden[first], x[first]
    own_k: list[torch.Tensor] = []
    own_v: list[torch.Tensor] = []
    for k, (rows, weight) in enumerate(zip(plan, step_weights(steps, decay), strict=True)):
        if k > 0:
            hidden = hidden[rows.kept]  # [A_k, H], each row's own output of the step before
            own_k = [key[rows.kept] for key in own_k]
            own_v = [value[rows.kept] for value in own_v]
            x = draft.layer_input(_tokens_in(pack, target, rows.tokens, k), hidden)
            key, value = draft.keys_values(x, pack.positions[rows.tokens] + k)
            own_k.append(key)
            own_v.append(value)
        if len(rows.tokens) == 0:
            continue  # sets are nested, but every step still reports its denominator
        q = draft.queries(x, pack.positions[rows.tokens] + k)
        segments = Segments(keys, _per_document(pack.documents[rows.tokens], pack.documents))
        attended = prefix_attention(q, k0, v0, own_k, own_v, row_of_token[rows.tokens], segments)
        hidden = draft.finish(hidden, attended)
        loss = loss + weight * _step_loss(
            draft, hidden, teacher, last_of_token[rows.tokens + 1 + k], totals, k
        )
    _count(plan, totals)
    return loss, totals


def _step_loss(
    draft: Eagle3Draft,
    hidden: torch.Tensor,  # [A_k, H]
    teacher: Teacher,
    teacher_rows: torch.Tensor,  # int64 [A_k]
    totals: StepTotals,
    k: int,
) -> torch.Tensor:
    """Summed loss of one step over the rows whose teacher argmax the draft can say."""
    answer = teacher.argmax[teacher_rows]  # [A_k]
    trained = (answer >= 0).nonzero().flatten()
    rows, answer = teacher_rows[trained], answer[trained]
    logits = draft.logits(hidden[trained])  # [A', V_draft]
    p = teacher.probabilities[rows]
    losses = soft_cross_entropy(logits, p)
    with torch.no_grad():
        q = logits.to(p.dtype).softmax(-1)
        full = p * teacher.on_draft[rows, None].to(p.dtype)  # the target's own probabilities
        totals.loss[k] = losses.sum()
        totals.correct[k] = (logits.argmax(-1) == answer).sum()
        totals.accepted[k] = torch.minimum(full, q).sum()
        totals.trained[k] = len(trained)
    return losses.sum()


def _count(plan: list[StepRows], totals: StepTotals) -> None:
    for k, rows in enumerate(plan):
        totals.active[k] = len(rows.tokens)
        totals.in_mask[k] = rows.in_mask


def _tokens_in(pack: Pack, target: TargetParts, tokens: torch.Tensor, k: int) -> torch.Tensor:
    """[N, H]: embedding of x_{t+1+k}, the token that row t reads at step k."""
    return target.embedding[pack.input_ids[tokens + 1 + k]]


def _floating(states: torch.Tensor, draft: Eagle3Draft) -> torch.Tensor:
    """Stored states in the type of the weights; autocast narrows them where it is on."""
    return states.to(draft.fc.weight.dtype)


def _inverse(indices: torch.Tensor, size: int) -> torch.Tensor:
    """int64 [size]: where each value stands in `indices`, -1 where it does not."""
    table = indices.new_full((size,), -1)
    table[indices] = torch.arange(len(indices), device=indices.device)
    return table


def _per_document(documents: torch.Tensor, all_documents: torch.Tensor) -> list[int]:
    """[D] how many of the rows belong to each document of the pack."""
    count = int(all_documents[-1]) + 1 if len(all_documents) else 0
    return torch.bincount(documents, minlength=count).tolist()
