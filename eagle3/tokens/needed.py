"""Which states of a document training reads: the one place that knows, for writer and reader.

For a document x_0..x_e, cut after its last supervised token x_e (see `objective.rows` for why):

* fused features g_t are read for t <= e - 2, so `aux` has e - 1 rows;
* the teacher of label x_{p+1} is the target's state at p, read where p >= 1 and both p and p + 1
  are supervised: the first token of an answer is the server's own, from the prompt.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from eagle3.tokens.shards import offsets_of


@dataclass(frozen=True)
class NeededStates:
    """Layout of the stored states of consecutive documents."""

    kept: np.ndarray  # int64 [D], tokens kept of each document, e + 1 (0 without supervision)
    aux_offsets: np.ndarray  # int64 [D + 1], rows of `aux`
    last_offsets: np.ndarray  # int64 [D + 1], rows of `last`
    last_positions: np.ndarray  # int64 [R], position inside its document of each row of `last`


def needed_states(loss_mask: np.ndarray, doc_offsets: np.ndarray) -> NeededStates:
    """Layout for documents given by `loss_mask` [T] and `doc_offsets` [D + 1]."""
    kept, counts, positions = [], [], [np.empty(0, dtype=np.int64)]
    for start, stop in zip(doc_offsets[:-1].tolist(), doc_offsets[1:].tolist(), strict=True):
        mask = loss_mask[start:stop].astype(bool)
        supervised = np.flatnonzero(mask)
        kept.append(int(supervised[-1]) + 1 if len(supervised) else 0)
        rows = np.flatnonzero(mask[:-1] & mask[1:])
        rows = rows[rows >= 1]
        counts.append(len(rows))
        positions.append(rows)
    kept_array = np.array(kept, dtype=np.int64)
    return NeededStates(
        kept=kept_array,
        aux_offsets=offsets_of(np.maximum(kept_array - 2, 0)),
        last_offsets=offsets_of(counts),
        last_positions=np.concatenate(positions),
    )
