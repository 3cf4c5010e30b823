"""Training-time test: the draft is trained on its own outputs, step by step.

    loss = (1 / n_0) sum_k w_k sum_{t in A_k, teacher argmax in the draft vocabulary} l(t, k)

n_0 = |A_0| over everything that one optimiser step sees. It follows from masks alone, so neither
padding, packing, accumulation nor the number of ranks changes a gradient. After step 0 only
active rows are computed at all; step 0 computes keys and values for every row.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch.nn.functional import pad
from torch.utils.checkpoint import checkpoint

from eagle3.draft.halves import Embedded, HalvedDraft
from eagle3.draft.model import Eagle3Draft
from eagle3.objective.attention import Attention, Queries
from eagle3.objective.attention_choice import choose_attention
from eagle3.objective.losses import step_weights
from eagle3.objective.pack import Pack
from eagle3.objective.rows import ActiveRows, StepRows, step_rows
from eagle3.objective.scores import LossKind, Pairs, scores
from eagle3.objective.teacher import Teacher
from eagle3.objective.totals import StepTotals
from eagle3.target.reader import Head


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
    recompute: bool = False  # keep the input of each step only; forward again in the backward pass

    @property
    def needs_acceptance(self) -> bool:
        """Whether the loss is weighted by acceptance over the whole batch."""
        return self.loss == "lk_hybrid"

    def mix(self, acceptance: torch.Tensor | None) -> torch.Tensor | None:
        """l_k of lk_hybrid from the mean acceptance of each step, [K]."""
        return None if acceptance is None else torch.exp(-self.lk_eta * acceptance)


@dataclass
class _Chain:
    """State of the loop over steps: the rows of the present step and what they carry along."""

    hidden: torch.Tensor  # [A_k, H]
    slots: torch.Tensor  # int64 [A_k], with copies at the end
    active: int  # those that are no copies
    k0: torch.Tensor  # [T, kv_heads, d]
    v0: torch.Tensor
    slots_of: list[torch.Tensor] = field(default_factory=list)  # of steps 1..k
    own_k: list[torch.Tensor] = field(default_factory=list)  # [A_j, kv_heads, d] of steps 1..k
    own_v: list[torch.Tensor] = field(default_factory=list)


class _Layout:
    """Where the active rows of a pack stand among its rows of aux."""

    def __init__(self, pack: Pack, active: ActiveRows) -> None:
        size, device = len(pack.input_ids), pack.input_ids.device
        row_of_token = torch.full((size,), -1, dtype=torch.int64, device=device)
        row_of_token[pack.row_tokens] = torch.arange(len(pack.row_tokens), device=device)
        self.rows = row_of_token[active.tokens]  # int64 [A_0]
        documents = pack.documents[pack.row_tokens]
        self.starts = torch.searchsorted(documents, documents[self.rows])  # int64 [A_0]
        self.positions = pack.positions[active.tokens]

    def queries(self, slots: torch.Tensor, slots_of: list[torch.Tensor]) -> Queries:
        """Queries of a step whose rows are `slots`, after steps of `slots_of`."""
        own = [torch.searchsorted(each, slots) for each in slots_of]
        return Queries(self.rows[slots], self.starts[slots], own)


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
    steps, device = objective.steps, pack.aux.device
    known = target.draft_ids >= 0
    active = step_rows(pack.input_ids, pack.loss_mask, pack.documents, known, steps)
    totals = StepTotals.zeros(steps, device)
    for k, rows in enumerate(active.steps):
        totals.active[k], totals.in_mask[k] = len(rows.slots), rows.in_mask
    if len(active.tokens) == 0:
        return torch.zeros((), device=device), totals
    layout = _Layout(pack, active)
    seen = (layout.rows - layout.starts + 1).double()
    for k, rows in enumerate(active.steps):
        totals.attended[k] = seen[rows.slots].sum()
    halved, states = _hidden_states(draft, pack, target, objective, active, layout)
    teacher = Teacher.of(pack, target.head, target.draft_ids)
    pairs, order = _pairs(active, teacher)
    if len(order) == 0:
        return torch.zeros((), device=device), totals
    x = halved.head_input(torch.cat(states)[order])
    weights = torch.tensor(step_weights(steps, objective.decay), dtype=torch.float64, device=device)
    mix = objective.mix(acceptance)
    kind = LossKind(objective.loss, weights, torch.ones_like(weights) if mix is None else mix)
    loss, found = scores(x, halved.head, pairs, teacher, kind)
    for name, values in (("loss", found.loss), ("correct", found.correct)):
        getattr(totals, name).index_add_(0, pairs.step, values.double())
    totals.accepted.index_add_(0, pairs.step, found.accepted.double())
    totals.trained.copy_(torch.bincount(pairs.step, minlength=steps))
    return loss, totals


def _hidden_states(
    draft: Eagle3Draft,
    pack: Pack,
    target: TargetParts,
    objective: Objective,
    active: ActiveRows,
    layout: _Layout,
) -> tuple[HalvedDraft, list[torch.Tensor]]:
    """Hidden states [A_k + copies, H] that each step ends with."""
    longest = int(pack.positions.max()) + objective.steps + 1
    halved = HalvedDraft(draft, objective.dtype, longest)
    attention = choose_attention(objective.attention, pack.aux.device, objective.dtype)
    embedding = target.embedding[pack.input_ids[pack.row_tokens + 1]]  # [T, H]
    first = active.steps[0].filled()
    queried = layout.rows[first]
    embedded = halved.embedded(embedding, queried)
    g = halved.fused(pack.aux)
    q, k0, v0 = halved.first_projections(g, embedded, pack.positions[pack.row_tokens], queried)
    chain = _Chain(g[queried], first, len(active.steps[0].slots), k0, v0)
    out = []
    for k, rows in enumerate(active.steps):
        if len(rows.slots) == 0:
            break
        if k > 0:
            chain = _kept(chain, rows)
        args = (halved, attention, layout, embedded, chain, q if k == 0 else None, k)
        if objective.recompute:
            found = checkpoint(_step, *args, use_reentrant=False, preserve_rng_state=False)
        else:
            found = _step(*args)
        chain = found
        out.append(chain.hidden)
    return halved, out


def _kept(chain: _Chain, rows: StepRows) -> _Chain:
    """The chain with only the rows that go on."""
    slots = rows.filled()
    place = torch.searchsorted(chain.slots, slots)
    return replace(chain, hidden=chain.hidden[place], slots=slots, active=len(rows.slots))


def _step(
    halved: HalvedDraft,
    attention: Attention,
    layout: _Layout,
    embedded: Embedded,
    chain: _Chain,
    q: torch.Tensor | None,
    k: int,
) -> _Chain:
    """One TTT step: each row attends, and its hidden state is replaced by its output.

    `q`: queries of step 0, which come with the keys of all rows.
    """
    slots_of, own_k, own_v = chain.slots_of, chain.own_k, chain.own_v
    if q is None:
        positions = layout.positions[chain.slots] + k
        q, key, value = halved.projections(chain.hidden, embedded, chain.slots + k, positions)
        slots_of, own_k, own_v = [*slots_of, chain.slots], [*own_k, key], [*own_v, value]
    queries = layout.queries(chain.slots[: chain.active], slots_of)
    attended = attention(q[: chain.active], chain.k0, chain.v0, own_k, own_v, queries)
    attended = pad(attended, (0, 0, 0, len(chain.slots) - chain.active))
    hidden = halved.finish(chain.hidden, attended)
    return replace(chain, hidden=hidden, slots_of=slots_of, own_k=own_k, own_v=own_v)


def _pairs(active: ActiveRows, teacher: Teacher) -> tuple[Pairs, torch.Tensor]:
    """Rows with a loss of all steps by teacher row, and where each stands among the outputs."""
    steps, slots, places, begin = [], [], [], 0
    for k, rows in enumerate(active.steps):
        if len(rows.slots) == 0:
            break
        steps.append(torch.full_like(rows.slots, k))
        slots.append(rows.slots + k)
        places.append(torch.arange(begin, begin + len(rows.slots), device=rows.slots.device))
        begin += len(rows.filled())
    step, slot, place = torch.cat(steps), torch.cat(slots), torch.cat(places)
    order = slot.argsort(stable=True)
    order = order[teacher.argmax[slot[order]] >= 0]
    return Pairs(slot[order], step[order]), place[order]
