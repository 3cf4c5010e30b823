"""Rows of a step padded to a multiple: libraries prepare code for every new shape.

oneDNN, cuBLAS and compiled kernels choose or build code by shape, and the number of active rows
differs at every step. So the last row of a step is repeated up to a multiple, and the results of
the copies are never used: attention does not see them, and no loss reads them.

    index   rows a b c  ->  rows a b c c      projections and MLP: 4 rows
    attention                                 queries, own keys and values: 3 rows
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch.nn.functional import pad

from eagle3.objective.attention.interface import EVERY, Attention, Keys, KeyValue
from eagle3.objective.row_index import RowIndex, StepIndex

MULTIPLE = 64
FEW_MULTIPLE, FEW = 16, 512  # a smaller multiple for steps with few rows


def in_buckets(index: RowIndex, attention: Attention) -> tuple[RowIndex, Attention]:
    """The same rows and attention, with padded rows."""
    counts = [step.count for step in index.steps]
    steps = [_fill_step(step) for step in index.steps]
    index = replace(index, taught=fill_up(index.taught), steps=steps)
    return index, WithoutCopies(attention, counts)


def fill_up(rows: torch.Tensor) -> torch.Tensor:
    """int64 [A] with the last one repeated up to a multiple."""
    missing = -len(rows) % (MULTIPLE if len(rows) > FEW else FEW_MULTIPLE)
    return torch.cat((rows, rows[-1:].expand(missing)))


def _fill_step(step: StepIndex) -> StepIndex:
    return replace(
        step, rows=fill_up(step.rows), reads=fill_up(step.reads), positions=fill_up(step.positions)
    )


class WithoutCopies:
    """Attention of the first `counts[k]` rows of each step k."""

    def __init__(self, attention: Attention, counts: list[int]) -> None:
        self.attention, self.counts = attention, counts

    def keys(self, k0: torch.Tensor, v0: torch.Tensor) -> Keys:
        """See `interface.Attention`."""
        return self.attention.keys(k0, v0)

    def attend(
        self, step: int, q: torch.Tensor, own: KeyValue | None, keys: Keys
    ) -> tuple[torch.Tensor, Keys]:
        """See `interface.Attention`."""
        count = len(q) if step == EVERY else self.counts[step]
        copies = len(q) - count
        if own is not None:
            own = own[0][:count], own[1][:count]
        attended, keys = self.attention.attend(step, q[:count], own, keys)
        return pad(attended, (0, 0, 0, copies)), keys
