"""Arithmetic of a training step: what the result needs, however it is computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from eagle3.draft.config import DraftConfig


@dataclass(frozen=True)
class Work:
    """Counts of rows over a pack, a batch or a run."""

    rows: int  # rows of aux: fused states, keys and values of step 0
    active: Sequence[int]  # [K], |A_k|
    scored: int  # rows with a loss, over all steps
    teacher_rows: int  # distributions of the teacher
    attended: int  # pairs of a query and a key of step 0, over all steps

    def flops(self, draft: DraftConfig) -> float:
        """Of matrix products, forward and backward, 2 per multiply-add.

        Rows that have left are not computed, the embedding's half of q, k and v is computed once,
        fc's input takes no gradient unless it is normed, and the teacher takes none at all.
        """
        h, d = draft.hidden_size, draft.head_dim
        q, kv = draft.num_attention_heads * d, 2 * draft.num_key_value_heads * d
        first, later = self.active[0], sum(self.active[1:])
        qkv = 2 * (self.rows * kv + first * q) + later * (q + kv)
        per_row = q * h + 3 * h * draft.intermediate_size
        trained = qkv * h + sum(self.active) * per_row
        trained += self.scored * h * draft.draft_vocab_size
        fused, taught = self.rows * 3 * h * h, self.teacher_rows * h * draft.draft_vocab_size
        # forward: scores and values; backward: two for each of them
        attention = 6 * self.attended * q
        passes = 3 if draft.fc_norm else 2
        return 2.0 * (3 * trained + passes * fused + taught + attention)
