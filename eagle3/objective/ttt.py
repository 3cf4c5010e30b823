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
from eagle3.objective.attention import Attention, Keys
from eagle3.objective.attention_choice import choose_attention
from eagle3.objective.losses import step_weights
from eagle3.objective.pack import Pack
from eagle3.objective.places import Held, Places
from eagle3.objective.rows import ActiveRows, StepRows, step_rows
from eagle3.objective.scores import LossKind, Pairs, scores
from eagle3.objective.sequence import Alone, sequence_of
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

    def mix(self, acceptance: torch.Tensor | None) -> torch.Tensor | None:
        """l_k of lk_hybrid from the mean acceptance of each step, [K]."""
        return None if acceptance is None else torch.exp(-self.lk_eta * acceptance)


@dataclass(frozen=True)
class _Engine:
    """What all steps of a pack have in common."""

    halved: HalvedDraft
    attention: Attention
    places: Places
    held: Held
    embedded: Embedded
    sequence: Alone


@dataclass
class _Chain:
    """State of the loop over steps: the rows of the present step and what they carry along."""

    hidden: torch.Tensor  # [A_k + copies, H]
    slots: torch.Tensor  # int64 [A_k + copies]
    active: int  # those that are no copies
    keys: Keys  # of step 0, and of steps 1..k
    earlier: list[torch.Tensor] = field(default_factory=list)  # slots of steps 1..k


def ttt_loss(
    draft: Eagle3Draft,
    pack: Pack,
    target: TargetParts,
    objective: Objective,
    acceptance: torch.Tensor | None = None,
) -> tuple[torch.Tensor, StepTotals]:
    """sum_k w_k sum_t l(t, k) of one pack (to be divided by n_0), and its totals.

    `acceptance` [K]: mean acceptance of the whole batch at each step, for a loss that needs it.
    Of a pack that ranks share, each one's loss, totals and gradients are those of its rows, and
    add up to those of the pack; all of them must call this and the backward pass.
    """
    steps, device = objective.steps, pack.aux.device
    known = target.draft_ids >= 0
    mine = None if pack.shares is None else pack.shares.mine.slots
    by_mask = objective.active_rows == "supervised"
    active = step_rows(pack.input_ids, pack.loss_mask, pack.documents, known, steps, mine, by_mask)
    totals = StepTotals.zeros(steps, device)
    for k, rows in enumerate(active.steps):
        totals.active[k], totals.in_mask[k] = len(rows.slots), rows.in_mask
    if active.depth == 0:
        return torch.zeros((), device=device), totals
    places = Places(pack, active)
    seen = (places.rows - places.starts + 1).double()
    for k, rows in enumerate(active.steps):
        totals.attended[k] = seen[rows.slots].sum()
    sequence = sequence_of(objective.attention, active, pack.shares, draft.config)
    held = Held(pack, active, places)
    halved, states = _hidden_states(draft, pack, target, objective, active, places, held, sequence)
    teacher = Teacher.of(pack, target.head, target.draft_ids)
    pairs, order, reached = _pairs(active, teacher, held)
    if len(order) == 0:  # ranks that have a loss wait for the others in the backward pass
        return torch.cat(states).sum() * 0 if pack.shares else torch.zeros(
            (), device=device
        ), totals
    x = halved.head_input(torch.cat(states)[order])
    weights = torch.tensor(step_weights(steps, objective.decay), dtype=torch.float64, device=device)
    mix = objective.mix(acceptance)
    kind = LossKind(objective.loss, weights, torch.ones_like(weights) if mix is None else mix)
    loss, found = scores(x, halved.head, pairs, teacher, kind)
    counted = {
        "loss": found.loss,
        "correct": found.correct * reached,
        "accepted": found.accepted * reached,
        "reached": reached,
    }
    for name, values in counted.items():
        getattr(totals, name).index_add_(0, pairs.step, values.double())
    totals.trained.copy_(torch.bincount(pairs.step, minlength=steps))
    return loss, totals


@torch.no_grad()
def right_choices(
    draft: Eagle3Draft, pack: Pack, target: TargetParts, objective: Objective
) -> tuple[ActiveRows, torch.Tensor]:
    """The active rows of a pack, and bool [A_0, K]: does the draft choose the target's token there?

    Where a row is not active the answer is no. The pack is not shared.
    """
    steps, device = objective.steps, pack.aux.device
    known = target.draft_ids >= 0
    active = step_rows(pack.input_ids, pack.loss_mask, pack.documents, known, steps)
    right = torch.zeros(len(active.tokens), steps, dtype=torch.bool, device=device)
    if active.depth == 0:
        return active, right
    places = Places(pack, active)
    held, alone = Held(pack, active, places), Alone(active)
    halved, states = _hidden_states(draft, pack, target, objective, active, places, held, alone)
    answers = target.draft_ids[pack.teacher_argmax]  # int64 [R], -1 outside
    for k, rows in enumerate(active.steps[: active.depth]):
        x = halved.head_input(states[k][: len(rows.slots)])
        chosen = [halved.head(part).argmax(-1) for part in x.split(CHOSEN_AT_ONCE)]
        # -1 is never chosen: what the draft cannot say is a miss
        right[rows.slots, k] = torch.cat(chosen) == answers[rows.slots + k]
    return active, right


def _hidden_states(
    draft: Eagle3Draft,
    pack: Pack,
    target: TargetParts,
    objective: Objective,
    active: ActiveRows,
    places: Places,
    held: Held,
    sequence: Alone,
) -> tuple[HalvedDraft, list[torch.Tensor]]:
    """Hidden states [A_k + copies, H] that each step ends with."""
    longest = int(pack.positions.max()) + objective.steps + 1
    halved = HalvedDraft(draft, objective.dtype, longest)
    shared = pack.shares is not None
    attention = choose_attention(objective.attention, pack.aux.device, objective.dtype, shared)
    embedding = target.embedding[pack.input_ids[held.read + 1]]  # [T_p + X, H]
    embedded = halved.embedded(embedding, held.reading)
    first = active.steps[0].filled()
    g = halved.fused(pack.aux)
    q, *own = halved.first_projections(g, embedded, held.positions, held.queried, held.of(first))
    # by head in memory, once: back ends would make a copy of their own at every step, and keep it
    k0, v0 = (t.transpose(0, 1).contiguous().transpose(0, 1) for t in sequence.keys(*own))
    keys = Keys(k0, v0)
    engine = _Engine(halved, attention, places, held, embedded, sequence)
    chain = _Chain(g[held.queried], first, len(active.steps[0].slots), keys)
    out = []
    for k in range(active.depth):
        if k > 0:
            chain = _kept(chain, active.steps[k])
        args = (engine, chain, q if k == 0 else None, k)
        if objective.recompute:
            chain = checkpoint(
                _step,
                *args,
                use_reentrant=False,
                preserve_rng_state=False,
                early_stop=not shared,  # else some ranks might exchange and others not
            )
        else:
            chain = _step(*args)
        out.append(chain.hidden)
    return halved, out


def _kept(chain: _Chain, rows: StepRows) -> _Chain:
    """The chain with only the rows that go on."""
    slots = rows.filled()
    place = torch.searchsorted(chain.slots, slots)
    return replace(chain, hidden=chain.hidden[place], slots=slots, active=len(rows.slots))


def _step(engine: _Engine, chain: _Chain, q: torch.Tensor | None, k: int) -> _Chain:
    """One TTT step: each row attends, and its hidden state is replaced by its output.

    `q`: queries of step 0, which come with the keys of all rows.
    """
    halved, sequence, own = engine.halved, engine.sequence, None
    if q is None:
        positions = engine.places.positions[chain.slots] + k
        index = engine.held.of(chain.slots + k)
        q, *own_pair = halved.projections(chain.hidden, engine.embedded, index, positions)
        own = (own_pair[0], own_pair[1])
    q, own = sequence.spread(k, q[: chain.active], own)
    slots, earlier, keys = sequence.slots(k), chain.earlier, chain.keys
    if own is not None:
        earlier = [*earlier, slots]
        keys = replace(keys, own_k=[*keys.own_k, own[0]], own_v=[*keys.own_v, own[1]])
    if len(q) == 0:  # of a rank without a row: part of the graph, so that backward passes meet
        attended = (q + 0 * (keys.k0.sum() + keys.v0.sum())).flatten(1)
    else:
        attended = engine.attention(q, keys, engine.places.queries(slots, earlier))
    attended = sequence.collect(k, attended)
    attended = pad(attended, (0, 0, 0, len(chain.slots) - chain.active))
    hidden = halved.finish(chain.hidden, attended)
    return replace(chain, hidden=hidden, keys=keys, earlier=earlier)


def _pairs(
    active: ActiveRows, teacher: Teacher, held: Held
) -> tuple[Pairs, torch.Tensor, torch.Tensor]:
    """Rows with a loss of all steps by teacher row, where each stands among the outputs, and
    whether serving can reach it."""
    steps, slots, places, reached, begin = [], [], [], [], 0
    for k, rows in enumerate(active.steps[: active.depth]):
        steps.append(torch.full_like(rows.slots, k))
        slots.append(held.of(rows.slots + k))
        places.append(torch.arange(begin, begin + len(rows.slots), device=rows.slots.device))
        reached.append(active.reach[rows.slots] >= k)
        begin += len(rows.filled())
    step, slot, place = torch.cat(steps), torch.cat(slots), torch.cat(places)
    reach = torch.cat(reached)
    order = slot.argsort(stable=True)
    order = order[teacher.argmax[slot[order]] >= 0]
    return Pairs(slot[order], step[order]), place[order], reach[order]
