"""Peak memory of a training step on a GPU: an estimate from shapes alone.

It adds up the tensors that a step keeps for its backward pass, and the largest temporary ones. The
allocator's overhead of a few percent is not included. With one layer and flash attention it is
within 10 % of the count of a simulated GPU (tests/gpu).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from eagle3.draft.config import DraftConfig

WIDE = 4  # bytes of float32
CHUNK_BYTES = 512 * 2**20  # of logits in float32 at once on a GPU, see `head_loss`
USABLE = 0.92  # share of a GPU's memory for tensors; the rest is the driver's or fragmented
STEP = 256  # tokens by which packs of the search differ


@dataclass(frozen=True)
class StepMemory:
    """A training step by its shapes.

    `parameters`: trained ones; `active`: rows of each TTT step per token, [K]; `narrow`: bytes of
    `train.precision`; `shares`: ranks that share weights and optimiser state (FSDP2); `ranks`:
    those that share a pack; `packs`: on the GPU, one of them in transit; `muon`: number of
    parameters that Muon updates, with one moment.
    """

    draft: DraftConfig
    parameters: int
    active: Sequence[float]
    narrow: int = 2
    recompute: bool = False
    shares: int = 1
    ranks: int = 1
    packs: int = 2
    muon: int = 0

    @property
    def constant(self) -> float:
        """Bytes independent of the pack: weights, gradients, optimiser state, and parts of the
        target."""
        draft = self.draft
        masters = WIDE * (3 * self.parameters - self.muon) / self.shares  # with their moments
        gathered = (WIDE * (self.shares > 1) + self.narrow) * self.parameters
        head = 2.0 * draft.draft_vocab_size * draft.hidden_size
        return masters + gathered + WIDE * self.parameters + head + 2.0 * _embedding(draft)

    def kept(self) -> float:
        """Bytes per token that the backward pass needs."""
        draft, w = self.draft, self.narrow
        h, d, heads = draft.hidden_size, draft.head_dim, draft.num_attention_heads
        q, kv = heads * d, draft.num_key_value_heads * d
        rows, first = sum(self.active), self.active[0]
        # states of the target, and what step 0 computes for every row
        states = 2.0 * self.packs * (len(draft.aux_layers) * h + first * h)
        every_row = (
            w * (3 * h + 4 * kv) + WIDE * (2 * kv + d) + first * (w * h + WIDE * (q + 2 * kv))
        )
        per_row = w * (q + 2 * kv) + w * h
        if not self.recompute:
            # flex, used for float32 and for shared packs, also keeps its output of the prefix
            attended = 3 if w == WIDE or self.ranks > 1 else 2
            per_row = w * (4 * h + attended * q + 2 * kv + 3 * draft.intermediate_size)
            per_row += WIDE * (d + heads)
            every_row += WIDE * heads * len(self.active)
        head = 3 * w * h * rows  # states of all steps, as the head reads them, and their gradient
        # layers below the last run for every row at step 0
        lower_layers = (draft.num_hidden_layers - 1) * (1 + sum(self.active[1:]))
        return states + every_row + per_row * (rows + lower_layers) + head

    def passing(self) -> float:
        """Temporary bytes per token, in the attention of the last step or the backward pass of its
        MLP."""
        draft, last = self.draft, self.active[-1]
        q = draft.num_attention_heads * draft.head_dim
        kv = draft.num_key_value_heads * draft.head_dim
        earlier = len(self.active) - 1
        # copies of the documents that are queried, and gradients of own keys and values
        attention = last * (self.narrow * (8 * q + 4 * kv) + 2 * WIDE * earlier * kv)
        if self.narrow < WIDE and self.ranks == 1:  # what flash's backward pass takes for itself
            attention += last * q * (WIDE + 2 * self.narrow * (q != kv))
        step = last * (3 * self.narrow * draft.intermediate_size + 2 * WIDE * (q + 2 * kv))
        if self.recompute:  # the step's own tensors are there again
            step += last * self.narrow * (4 * draft.hidden_size + 3 * draft.intermediate_size)
        return max(attention, step)

    def bytes(self, tokens: int) -> float:
        """Bytes with packs of so many tokens."""
        local_tokens = tokens / self.ranks
        vocab = self.draft.draft_vocab_size
        logits = min(WIDE * vocab * sum(self.active) * local_tokens, CHUNK_BYTES)
        # logits and their gradient, and the teacher's distributions, which all steps share
        scores = logits * (2 * self.narrow / WIDE + 1 / len(self.active))
        return (
            self.constant + self.kept() * local_tokens + max(scores, self.passing() * local_tokens)
        )

    def largest_pack(self, room: float) -> int:
        """The most tokens of a pack whose step fits into `room` bytes; 0 if none does."""
        largest, next_size = 0, STEP
        while self.bytes(next_size) <= room:
            largest, next_size = next_size, 2 * next_size
        while next_size - largest > STEP:
            middle = (largest + next_size) // 2 // STEP * STEP
            largest, next_size = (
                (middle, next_size) if self.bytes(middle) <= room else (largest, middle)
            )
        return largest


def _embedding(draft: DraftConfig) -> float:
    return float(draft.vocab_size * draft.hidden_size)
