"""Index tensors of what each step's rows read, built once for a pack.

A pack has T rows of aux, and R = |A_0| of them, the active ones of step 0, have a teacher. Row t at
step k reads the token and is compared with the teacher that row t + k has at step 0, so both are
looked up among the R. For one document with rows 0..5, of which 2, 3 and 4 are active, all to the
last step that their run allows:

    step 0   rows 2 3 4   of the T rows 0..5       reads 0 1 2   of the R
    step 1   rows 0 1     of those of step 0       reads 1 2
    step 2   rows 0       of those of step 1       reads 2
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from eagle3.objective.attention.interface import Queries
from eagle3.objective.head_loss import Pairs
from eagle3.objective.host_tensors import tree_to_device
from eagle3.objective.pack import HostColumns
from eagle3.objective.rows import ActiveRows
from eagle3.objective.step_totals import StepTotals


@dataclass(frozen=True)
class StepIndex:
    """The A_k rows of one step. Copies may follow them in the first three tensors."""

    rows: torch.Tensor  # int64 [A_k], index of each at the step before; at step 0 among the T
    reads: torch.Tensor  # int64 [A_k], whose token and teacher each one takes, among the R
    positions: torch.Tensor  # int64 [A_k], rotary
    reachable: torch.Tensor  # bool [A_k], serving can get there

    @property
    def count(self) -> int:
        """A_k."""
        return len(self.reachable)


@dataclass(frozen=True)
class RowIndex:
    """The rows of a pack that are computed, step by step."""

    ids: torch.Tensor  # int64 [T], the token that each row of aux reads at step 0
    positions: torch.Tensor  # int64 [T], rotary
    taught: torch.Tensor  # int64 [R], rows with a teacher, among the T
    steps: Sequence[StepIndex]  # those that have a row
    totals: StepTotals  # counts of rows; sums over losses are zero
    host: RowIndex | None = None  # the same on the host, where it was built

    def to(self, device: torch.device) -> RowIndex:
        """This index, built on the host, on `device`."""
        return self if device.type == "cpu" else replace(tree_to_device(self, device), host=self)

    def pairs(self, in_draft_vocab: torch.Tensor) -> tuple[Pairs, torch.Tensor, torch.Tensor]:
        """Pairs of a row and a step that have a loss, by teacher row; the index of each among
        the hidden states of all steps, and whether serving can reach it. `in_draft_vocab` bool [R]:
        teachers whose argmax is in the draft vocabulary, on the host if this index was built there.
        """
        if self.host is not None:
            on_host = self.host.pairs(in_draft_vocab)
            on_device = tree_to_device(on_host, self.taught.device)
            return replace(on_device[0], host=on_host[0]), on_device[1], on_device[2]
        steps, reads, indices, offset = [], [], [], 0
        for k, rows in enumerate(self.steps):
            reads.append(rows.reads[: rows.count])
            steps.append(torch.full_like(reads[-1], k))
            indices.append(offset + torch.arange(rows.count, device=reads[-1].device))
            offset += len(rows.reads)
        read = torch.cat(reads)
        order = read.argsort(stable=True)
        order = order[in_draft_vocab[read[order]]]
        reachable = torch.cat([rows.reachable for rows in self.steps])[order]
        return Pairs(read[order], torch.cat(steps)[order]), torch.cat(indices)[order], reachable


@dataclass(frozen=True)
class Prefixes:
    """Keys of step 0 that an active row sees: those of rows `starts` to `rows`, itself included."""

    rows: torch.Tensor  # int64 [A_0], of the active rows among the T rows of the pack
    starts: torch.Tensor  # int64 [A_0], first row of each one's document, whatever the window
    documents: torch.Tensor  # int64 [T], of every row
    window: int | None = None  # keys that a query sees at most, its own and later ones included

    @classmethod
    def of(cls, pack: HostColumns, active: ActiveRows, window: int | None = None) -> Prefixes:
        row_of_token = torch.full_like(pack.input_ids, -1, dtype=torch.int64)
        row_of_token[pack.row_tokens] = torch.arange(
            len(pack.row_tokens), device=pack.row_tokens.device
        )
        rows = row_of_token[active.tokens]
        documents = pack.documents[pack.row_tokens]
        starts = torch.searchsorted(documents, documents[rows])
        return cls(rows, starts, documents, window)

    def queries(self, slots: Sequence[torch.Tensor]) -> list[Queries]:
        """The queries of each step, which are of the active rows `slots` int64 [A_k]."""
        queries = []
        for k, step in enumerate(slots):
            own = [torch.searchsorted(earlier, step) for earlier in slots[1 : k + 1]]
            rows = self.rows[step]
            queries.append(Queries(rows, self._seen_from(rows, self.starts[step], k), own))
        return queries

    def every(self, rows: torch.Tensor | None = None) -> Queries:
        """Queries of the rows int64 [T_p] at step 0, active or not; of all rows if None."""
        if rows is None:
            rows = torch.arange(len(self.documents), device=self.documents.device)
        starts = torch.searchsorted(self.documents, self.documents[rows])
        return Queries(rows, self._seen_from(rows, starts, 0), ())

    def _seen_from(self, rows: torch.Tensor, starts: torch.Tensor, step: int) -> torch.Tensor:
        """The first row that each of `rows` [A] sees at a step, in documents that start at
        `starts`: its position is that of the row `step` further on."""
        if self.window is None:
            return starts
        return torch.maximum(starts, rows + step + 1 - self.window)


def sent_queries(queries: list[Queries], device: torch.device) -> list[Queries]:
    """Queries built on the host, on `device`."""
    if device.type == "cpu":
        return queries
    on_device = tree_to_device(queries, device)
    return [replace(q, host=on_host) for q, on_host in zip(on_device, queries, strict=True)]


def whole_index(pack: HostColumns, active: ActiveRows, prefixes: Prefixes) -> RowIndex:
    """The index of a pack that one rank computes."""
    slots = torch.arange(len(active.tokens), device=pack.input_ids.device)
    return RowIndex(
        ids=pack.input_ids[pack.row_tokens + 1],
        positions=pack.positions[pack.row_tokens],
        taught=prefixes.rows,
        steps=step_indices(pack, active, active.slots, prefixes.rows, slots),
        totals=count_rows(active, slots, prefixes),
    )


def step_indices(
    pack: HostColumns,
    active: ActiveRows,
    slots: Sequence[torch.Tensor],  # int64 [A_k] for each step, the active rows that are computed
    rows: torch.Tensor,  # int64 [A_0], indices of active rows among the rows of aux
    taught: torch.Tensor,  # int64 [A_0], indices of their tokens and teachers
) -> list[StepIndex]:
    """The index of every step that has a row."""
    positions = pack.positions[active.tokens]
    steps = []
    for k, step in enumerate(slots[: active.depth]):
        previous = rows[step] if k == 0 else torch.searchsorted(slots[k - 1], step)
        steps.append(
            StepIndex(previous, taught[step + k], positions[step] + k, active.reach[step] >= k)
        )
    return steps


def count_rows(active: ActiveRows, slots: torch.Tensor, prefixes: Prefixes) -> StepTotals:
    """Totals with the counts of the active rows `slots` int64 [S]."""
    totals = StepTotals.zeros(len(active.slots), slots.device)
    step = torch.arange(len(active.slots), device=slots.device)
    is_active = active.last[slots, None] >= step  # [S, K]
    totals.active.copy_(is_active.sum(0))
    totals.in_mask.copy_((active.allowed[slots, None] >= step).sum(0))
    keys = (prefixes.rows[slots] - prefixes.starts[slots] + 1)[:, None]
    if prefixes.window is not None:
        keys = torch.minimum(keys, prefixes.window - step)
    totals.attended.copy_((keys * is_active).sum(0))
    return totals


def count_layers(totals: StepTotals, every: Queries, layers: int) -> None:
    """Extend the attended keys of one layer to `layers`: at step 0 all but the last layer run for
    `every` row that is computed here."""
    active = totals.attended[0].clone()
    totals.attended *= layers
    totals.attended[0] = active + (layers - 1) * (every.rows - every.starts + 1).sum()
