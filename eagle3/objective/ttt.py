"""Training-time test: the draft is trained on its own outputs, step by step.

    loss = (1 / n_0) sum_k w_k sum_{t in A_k, teacher argmax in the draft vocabulary} l(t, k)

n_0 = |A_0| over everything that one optimiser step sees. It follows from masks alone, so neither
padding, packing, accumulation nor the number of ranks changes a gradient. After step 0 only
active rows are computed at all; step 0 computes keys and values for every row.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.utils.checkpoint import checkpoint

from eagle3.draft.model import Eagle3Draft
from eagle3.draft.training_forward import EmbeddingProjections, TrainingDraft
from eagle3.objective.attention import Attention, Keys
from eagle3.objective.dispatch import dispatch
from eagle3.objective.head_loss import LossKind, Pairs, head_loss
from eagle3.objective.losses import step_weights
from eagle3.objective.pack import Pack
from eagle3.objective.row_index import RowIndex, StepIndex
from eagle3.objective.rows import ActiveRows, step_rows
from eagle3.objective.teacher import Teacher
from eagle3.objective.totals import StepTotals
from eagle3.target.reader import Head

CHOSEN_AT_ONCE = 1024  # rows whose logits are held at once


@dataclass(frozen=True)
class TargetParts:
    """What training keeps of the target, none of it trained."""

    embedding: torch.Tensor  # [V, H]
    head: Head  # on the draft vocabulary, [V_draft, H]
    draft_ids: torch.Tensor  # int64 [V], -1 outside the draft vocabulary


@dataclass(frozen=True)
class Objective:
    """How the loss is computed."""

    steps: int = 7
    decay: float = 0.8
    loss: str = "soft_ce"
    lk_eta: float = 3.0  # of lk_hybrid
    dtype: torch.dtype = torch.float32  # of products and of what is kept between them
    attention: str = "auto"
    active_rows: str = "reachable"  # or `supervised`: tokens outside the draft vocabulary too
    recompute: bool = False  # keep the input of each step only; forward again in the backward pass

    @property
    def needs_acceptance(self) -> bool:
        """Whether the loss is weighted by acceptance over the whole batch."""
        return self.loss == "lk_hybrid"

    def loss_kind(self, acceptance: torch.Tensor | None, device: torch.device) -> LossKind:
        """The loss with its weights; `acceptance` [K]: the mean of each step, for lk_hybrid."""
        weights = torch.tensor(
            step_weights(self.steps, self.decay), dtype=torch.float64, device=device
        )
        mix = torch.ones_like(weights)
        if acceptance is not None:
            mix = torch.exp(-self.lk_eta * acceptance)
        return LossKind(self.loss, weights, mix)


def ttt_loss(
    draft: Eagle3Draft,
    pack: Pack,
    target: TargetParts,
    objective: Objective,
    acceptance: torch.Tensor | None = None,
) -> tuple[torch.Tensor, StepTotals]:
    """sum_k w_k sum_t l(t, k) of one pack (to be divided by n_0), and its totals.

    `acceptance` [K]: mean acceptance of the whole batch at each step, for a loss that needs it.
    """
    active = active_rows(pack, target, objective)
    if active.depth == 0:
        return torch.zeros((), device=pack.aux.device), StepTotals.zeros(
            objective.steps, pack.aux.device
        )
    index, attention = dispatch(pack, active, objective.attention, objective.dtype, draft.config)
    layer = TrainingDraft(draft, objective.dtype, int(pack.positions.max()) + objective.steps + 1)
    states = hidden_states(layer, pack, target, index, attention, objective.recompute)
    teacher = Teacher.of(pack, target.head, target.draft_ids)
    pairs, places, reachable = pairs_with_loss(index, teacher)
    x = layer.head_input(torch.cat(states)[places])
    kind = objective.loss_kind(acceptance, pack.aux.device)
    loss, results = head_loss(x, layer.head, pairs, teacher, kind)
    index.totals.add_pairs(pairs.step, results, reachable)
    return loss, index.totals


def active_rows(pack: Pack, target: TargetParts, objective: Objective) -> ActiveRows:
    """The rows of all steps."""
    return step_rows(
        pack.input_ids,
        pack.loss_mask,
        pack.documents,
        target.draft_ids >= 0,
        objective.steps,
        by_mask=objective.active_rows == "supervised",
    )


def hidden_states(
    layer: TrainingDraft,
    pack: Pack,
    target: TargetParts,
    index: RowIndex,
    attention: Attention,
    recompute: bool = False,
) -> list[torch.Tensor]:
    """Hidden states [A_k, H] that each step ends with."""
    first = index.steps[0]
    embedded = layer.project_embeddings(target.embedding[index.ids], index.taught)
    g = layer.project_aux(pack.aux)  # [T, H]
    q, k0, v0 = layer.first_projections(g, embedded, index.positions, first.rows, first.reads)
    hidden, keys = g, attention.keys(k0, v0)
    states = []
    for k, rows in enumerate(index.steps):
        hidden = hidden[rows.rows]
        args = (layer, attention, embedded, k, rows, hidden, keys, q if k == 0 else None)
        if recompute:
            hidden, keys = checkpoint(
                ttt_step, *args, use_reentrant=False, preserve_rng_state=False
            )
        else:
            hidden, keys = ttt_step(*args)
        states.append(hidden)
    return states


def ttt_step(
    layer: TrainingDraft,
    attention: Attention,
    embedded: EmbeddingProjections,
    k: int,
    rows: StepIndex,
    hidden: torch.Tensor,
    keys: Keys,
    q: torch.Tensor | None,
) -> tuple[torch.Tensor, Keys]:
    """One TTT step: each row attends, and its output replaces its hidden state [A_k, H].

    `q`: queries of step 0, which come with the keys of all rows.
    """
    own = None
    if q is None:
        q, own_k, own_v = layer.projections(hidden, embedded, rows.reads, rows.positions)
        own = own_k, own_v
    attended, keys = attention.attend(k, q, own, keys)
    return layer.finish(hidden, attended), keys


def pairs_with_loss(index: RowIndex, teacher: Teacher) -> tuple[Pairs, torch.Tensor, torch.Tensor]:
    """Pairs of a row and a step that have a loss, by teacher row; where each stands among the
    hidden states of all steps, and whether serving can reach it."""
    step, reads, places, begin = [], [], [], 0
    for k, rows in enumerate(index.steps):
        count = len(rows.reachable)
        step.append(torch.full_like(rows.reads[:count], k))
        reads.append(rows.reads[:count])
        places.append(begin + torch.arange(count, device=rows.reads.device))
        begin += len(rows.reads)
    read = torch.cat(reads)
    order = read.argsort(stable=True)
    order = order[teacher.argmax[read[order]] >= 0]
    reachable = torch.cat([rows.reachable for rows in index.steps])
    return Pairs(read[order], torch.cat(step)[order]), torch.cat(places)[order], reachable[order]


@torch.no_grad()
def right_choices(
    draft: Eagle3Draft, pack: Pack, target: TargetParts, objective: Objective
) -> tuple[ActiveRows, torch.Tensor]:
    """The active rows of a pack, and bool [A_0, K]: does the draft choose the target's token there?

    Where a row is not active the answer is no.
    """
    active = active_rows(pack, target, objective)
    right = torch.zeros(
        len(active.tokens), objective.steps, dtype=torch.bool, device=pack.aux.device
    )
    if active.depth == 0:
        return active, right
    index, attention = dispatch(pack, active, objective.attention, objective.dtype, draft.config)
    layer = TrainingDraft(draft, objective.dtype, int(pack.positions.max()) + objective.steps + 1)
    states = hidden_states(layer, pack, target, index, attention)
    answers = target.draft_ids[pack.teacher_argmax]  # int64 [R], -1 outside
    for k, (slots, state) in enumerate(zip(active.slots, states, strict=False)):
        x = layer.head_input(state[: len(slots)])
        chosen = [layer.head(part).argmax(-1) for part in x.split(CHOSEN_AT_ONCE)]
        # -1 is never chosen: a token outside the draft vocabulary is a miss
        right[slots, k] = torch.cat(chosen) == answers[slots + k]
    return active, right
