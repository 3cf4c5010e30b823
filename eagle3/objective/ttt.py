"""Training-time test: the draft is trained on its own outputs, step by step.

    loss = (1 / n_0) sum_k w_k sum_{t in A_k, teacher argmax in the draft vocabulary} l(t, k)

n_0 = |A_0| over the whole batch of an optimiser step. It follows from masks alone, so padding,
packing, accumulation and the number of ranks never change a gradient. After step 0 only active rows
are computed; step 0 computes keys and values for every row. With several layers it runs all but the
last for every row, since their outputs give the keys of the next layer:

                  layer 0             layer 1 (the last)
    step 0        every row           keys of every row, active rows
    step k        active rows         active rows
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch.utils.checkpoint import checkpoint

from eagle3.draft.model import Eagle3Draft
from eagle3.draft.training_forward import TrainingDraft
from eagle3.draft.training_layer import EmbeddingProjections, Reads, TrainingLayer
from eagle3.objective.attention.interface import EVERY, Attention, Keys
from eagle3.objective.dispatch import dispatch, teachers_in_draft_vocab
from eagle3.objective.head_loss import head_loss
from eagle3.objective.pack import Pack
from eagle3.objective.row_index import RowIndex, StepIndex
from eagle3.objective.settings import Objective, TargetParts
from eagle3.objective.step_totals import StepTotals

__all__ = ["Objective", "TargetParts", "right_choices", "ttt_loss"]

Result = TypeVar("Result")
LOGIT_ROWS = 1024  # rows whose logits are held at once


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
    index, attention = dispatch(pack, target, objective, draft.config)
    if not index.steps:
        return torch.zeros((), device=pack.aux.device), index.totals
    model = training_draft(draft, pack, objective)
    states = hidden_states(model, pack, target, index, attention, objective.recompute)
    teacher = target.teacher(pack)
    pairs, indices, reachable = index.pairs(teachers_in_draft_vocab(pack, target, index))
    x = model.head_input(torch.cat(states).index_select(0, indices))
    kind = objective.loss_kind(acceptance, x.device)
    loss, results = head_loss(x, model.head_weight, model.head.narrow, pairs, teacher, kind)
    index.totals.add_pairs(pairs, results, reachable)
    return loss, index.totals


def training_draft(draft: Eagle3Draft, pack: Pack, objective: Objective) -> TrainingDraft:
    """The draft's weights, and rotary angles of all positions that rows of the pack reach."""
    positions = int(pack.columns.positions.max()) + objective.steps + 1
    return TrainingDraft(draft, objective.dtype, positions)


def hidden_states(
    draft: TrainingDraft,
    pack: Pack,
    target: TargetParts,
    index: RowIndex,
    attention: Attention,
    recompute: bool = False,
) -> list[torch.Tensor]:
    """Hidden states [A_k, H] at the end of each step."""
    first, lower_layers = index.steps[0], draft.layers[:-1]
    embedded = draft.project_embeddings(target.embedding[index.ids], index.taught)
    hidden, keys = draft.project_aux(pack.aux), list[Keys]()  # [T, H]
    reads: Reads | None = embedded.of_reads(first.reads)  # of the first layer alone
    if lower_layers:
        reads = embedded.of_rows(len(hidden))
    run = recomputed if recompute else directly
    for layer in lower_layers:
        hidden, layer_keys = run(every_row, layer, attention, index.positions, hidden, reads)
        reads = None
        keys.append(layer_keys)
    q, k0, v0 = draft.layers[-1].first_projections(hidden, index.positions, first.rows, reads)
    keys.append(attention.keys(k0, v0))
    states = []
    for k, rows in enumerate(index.steps):
        hidden, queries = hidden.index_select(0, rows.rows), q if k == 0 else None
        hidden, keys = run(ttt_step, draft, attention, embedded, k, rows, hidden, keys, queries)
        states.append(hidden)
    return states


def directly(function: Callable[..., Result], *args: Any) -> Result:
    """Call the function."""
    return function(*args)


def recomputed(function: Callable[..., Result], *args: Any) -> Result:
    """Call the function, and keep only its inputs for the backward pass."""
    result: Result = checkpoint(function, *args, use_reentrant=False, preserve_rng_state=False)
    return result


def every_row(
    layer: TrainingLayer,
    attention: Attention,
    positions: torch.Tensor,
    hidden: torch.Tensor,
    reads: Reads | None,
) -> tuple[torch.Tensor, Keys]:
    """Step 0 of a layer below the last: its output for each row [T, H], and its keys."""
    q, k0, v0 = layer.first_projections(hidden, positions, None, reads)
    attended, keys = attention.attend(EVERY, q, None, attention.keys(k0, v0))
    return layer.finish(hidden, attended), keys


def ttt_step(
    draft: TrainingDraft,
    attention: Attention,
    embedded: EmbeddingProjections,
    k: int,
    rows: StepIndex,
    hidden: torch.Tensor,
    keys: list[Keys],
    q: torch.Tensor | None,
) -> tuple[torch.Tensor, list[Keys]]:
    """One TTT step: each row attends, and its output replaces its hidden state [A_k, H].

    `keys`: of each layer. `q`: at step 0, the queries of the last layer, which were computed with
    the keys of all rows; the layers below have finished that step.
    """
    if q is not None:
        attended, new_keys = attention.attend(k, q, None, keys[-1])
        return draft.finish(draft.layers[-1].finish(hidden, attended)), [*keys[:-1], new_keys]
    next_keys = []
    reads: Reads | None = embedded.of_reads(rows.reads)  # of the first layer alone
    for layer, layer_keys in zip(draft.layers, keys, strict=True):
        q, own_k, own_v = layer.projections(hidden, rows.positions, reads)
        attended, new_keys = attention.attend(k, q, (own_k, own_v), layer_keys)
        hidden, reads = layer.finish(hidden, attended), None
        next_keys.append(new_keys)
    return draft.finish(hidden), next_keys


@torch.no_grad()
def right_choices(
    draft: Eagle3Draft, pack: Pack, target: TargetParts, objective: Objective
) -> torch.Tensor:
    """bool [R, K]: whether the draft chooses the target's token at each step, for the row of each
    teacher; false where the row is not active."""
    size = len(pack.last_tokens), objective.steps
    correct = torch.zeros(size, dtype=torch.bool, device=pack.aux.device)
    index, attention = dispatch(pack, target, objective, draft.config)
    if not index.steps:
        return correct
    model = training_draft(draft, pack, objective)
    states = hidden_states(model, pack, target, index, attention)
    answers = target.draft_ids[pack.teacher_argmax]  # int64 [R], -1 outside
    for k, (rows, state) in enumerate(zip(index.steps, states, strict=True)):
        reads = rows.reads[: rows.count]
        x = model.head_input(state[: rows.count])
        choices = [model.head(part).argmax(-1) for part in x.split(LOGIT_ROWS)]
        # -1 is never chosen: a token outside the draft vocabulary is a miss
        correct[reads - k, k] = torch.cat(choices) == answers[reads]
    return correct
