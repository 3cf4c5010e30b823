"""The index of the rows that one rank computes, in the rows that it holds.

    whole pack     T rows of aux         R rows with a teacher
    this rank      its own T_p, and      its own, and the K - 1 after each of its blocks
                   X of other ranks

Row t at step k reads the token and the teacher of row t + k, which another rank may compute. So the
rank holds the teachers of these rows too, and the embeddings of their tokens: the X rows.
"""

from __future__ import annotations

import torch

from eagle3.objective.pack import HostColumns
from eagle3.objective.row_index import Prefixes, RowIndex, count_rows, step_indices
from eagle3.objective.rows import ActiveRows
from eagle3.objective.sequence_parallel.sharding import RowShard


def local_index(
    pack: HostColumns, active: ActiveRows, prefixes: Prefixes, shard: RowShard
) -> RowIndex:
    """As `row_index.whole_index`, for the rows of a shard of the pack."""
    computed_here = numbering(shard.slots, len(active.tokens))[shard.taught] >= 0
    rows = torch.cat((shard.rows, prefixes.rows[shard.taught[~computed_here]]))  # [T_p + X]
    row_here = numbering(rows, len(pack.row_tokens))[prefixes.rows]
    taught_here = numbering(shard.taught, len(active.tokens))
    return RowIndex(
        ids=pack.input_ids[pack.row_tokens[rows] + 1],
        positions=pack.positions[pack.row_tokens[shard.rows]],
        taught=row_here[shard.taught],
        steps=step_indices(pack, active, shard.active_slots(active), row_here, taught_here),
        totals=count_rows(active, shard.slots, prefixes),
    )


def numbering(numbers: torch.Tensor, size: int) -> torch.Tensor:
    """int64 [size]: index in `numbers` of each number below `size`, -1 if it is not there."""
    indices = torch.full((size,), -1, dtype=torch.int64, device=numbers.device)
    indices[numbers] = torch.arange(len(numbers), device=numbers.device)
    return indices
