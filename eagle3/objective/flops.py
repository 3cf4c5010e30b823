"""FLOPs that the result of a training step needs, however it is computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from eagle3.draft.config import DraftConfig
from eagle3.draft.shapes import HEAD, parameter_shapes

NEWTON_SCHULZ = 5  # iterations of an update of Muon, see `torch.optim.Muon`


def orthogonalising_flops(rows: int, columns: int) -> float:
    """FLOPs of Muon's update of a matrix: each iteration has two products with the Gram matrix over
    the shorter side, and its square."""
    short, long = sorted((rows, columns))
    return NEWTON_SCHULZ * 2.0 * short * short * (2 * long + short)


def muon_shapes(draft: DraftConfig) -> list[tuple[int, ...]]:
    """Matrices of a draft that Muon updates: all but the head."""
    shapes = parameter_shapes(draft).items()
    return [shape for name, shape in shapes if len(shape) == 2 and name != HEAD]


@dataclass(frozen=True)
class Work:
    """Counts of rows over a pack, a batch or a run."""

    rows: int  # rows of aux: fused states, keys and values of step 0
    active: Sequence[int]  # [K], |A_k|
    scored: int  # rows with a loss, over all steps
    teacher_rows: int  # distributions of the teacher
    attended: int  # pairs of a query and a key of step 0, over all steps and layers

    def flops(self, draft: DraftConfig) -> float:
        """FLOPs of matrix products, forward and backward, 2 per multiply-add.

        Inactive rows are not computed, the embedding's half of q, k and v is computed once, fc's
        input needs no gradient unless it is normed, and the teacher never does. Layers below the
        last run for every row at step 0.
        """
        h, d, lower_layers = draft.hidden_size, draft.head_dim, draft.num_hidden_layers - 1
        q, kv = draft.num_attention_heads * d, 2 * draft.num_key_value_heads * d
        first, later = self.active[0], sum(self.active[1:])
        per_row = q * h + 3 * h * draft.intermediate_size
        last = self.rows * kv + first * q  # projected at step 0
        # the first layer reads the embedding too; those below the last have a query of every row
        qkv = (lower_layers + 1) * self.rows * (q + kv) + last if lower_layers else 2 * last
        qkv += (lower_layers + 1) * later * (q + kv)
        trained = qkv * h + (lower_layers * (self.rows + later) + sum(self.active)) * per_row
        trained += self.scored * h * draft.draft_vocab_size
        fc_products = self.rows * draft.aux_width * h
        teacher_products = self.teacher_rows * h * draft.draft_vocab_size
        # forward: scores and values; backward: two for each of them
        attention = 6 * self.attended * q
        passes = 3 if draft.fc_norm else 2
        return 2.0 * (3 * trained + passes * fc_products + teacher_products + attention)
