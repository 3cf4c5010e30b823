"""Which states of a document training reads: the one definition, for writer and reader.

For a document x_0..x_e, cut after its last supervised token x_e (see `objective.rows` for why):

* fused features g_t are read for t <= e - 2, so `aux` has e - 1 rows;
* the teacher of label x_{p+1} is the target's state at p, read where p >= 1 and both p and p + 1
  are supervised: the first token of an answer is the server's own, from the prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class NeededStates:
    """Layout of the stored states of consecutive documents."""

    kept: np.ndarray  # int64 [D], tokens kept of each document, e + 1 (0 without supervision)
    aux_offsets: np.ndarray  # int64 [D + 1], rows of `aux`
    last_offsets: np.ndarray  # int64 [D + 1], rows of `last`
    last_positions: np.ndarray  # int64 [R], position inside its document of each row of `last`

    def taught(self, document: int) -> np.ndarray:
        """int64 [R], positions of a document whose states are the teacher's."""
        return self.last_positions[slice(*self.last_offsets[[document, document + 1]])]


def needed_states(loss_mask: np.ndarray, doc_offsets: np.ndarray) -> NeededStates:
    """Layout for documents given by `loss_mask` [T] and `doc_offsets` [D + 1]."""
    documents, mask = len(doc_offsets) - 1, loss_mask.astype(bool)
    starts = doc_offsets[:-1].astype(np.int64)
    document = np.repeat(np.arange(documents), np.diff(doc_offsets))  # int64 [T]
    supervised = np.flatnonzero(mask)
    kept = np.zeros(documents, dtype=np.int64)
    # ascending, so the last one of each document wins
    kept[document[supervised]] = supervised - starts[document[supervised]] + 1
    rows = np.flatnonzero(mask[:-1] & mask[1:] & (document[:-1] == document[1:]))
    positions = rows - starts[document[rows]]
    rows, positions = rows[positions >= 1], positions[positions >= 1]
    return NeededStates(
        kept=kept,
        aux_offsets=offsets_of(np.maximum(kept - 2, 0)),
        last_offsets=offsets_of(np.bincount(document[rows], minlength=documents)),
        last_positions=positions,
    )


def offsets_of(lengths: Sequence[int] | np.ndarray) -> np.ndarray:
    """int64 [N + 1]: where each of N consecutive pieces starts, and where the last one ends."""
    return np.cumsum(np.concatenate([[0], lengths]), dtype=np.int64)
