"""The teacher over the whole vocabulary for the stored rows: argmax and log-sum-exp of its logits.

Logits are computed block by block and never kept. Under tensor parallelism each rank holds a slice
of the vocabulary, and the ranks' parts are merged at the end.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from eagle3.parallel.ranks import Ranks
from eagle3.target_model.reader import HALF_PRECISION, Head

BLOCK_BYTES = 64 * 2**20  # of float32 logits at a time; about the L2 cache of a GPU


class TeacherRows:
    """Argmax and log-sum-exp of the target's logits at some rows."""

    def __init__(
        self, head: Head, dtype: torch.dtype, ranks: Ranks, block_bytes: int = BLOCK_BYTES
    ) -> None:
        """`head`: the whole head, on any device; this rank's slice goes to `ranks.device` in the
        target's `dtype`."""
        vocab, hidden = head.weight.shape
        self.first, stop = (vocab * (ranks.rank + i) // ranks.world for i in (0, 1))
        self.head = head.part(self.first, stop).to(ranks.device, dtype)
        self.ranks = ranks
        # a block of the weight may be converted to float32, so the same bound applies
        self.block_tokens = max(1, min(block_bytes // (4 * hidden), max(1, stop - self.first)))
        self.block_rows = max(1, block_bytes // (4 * self.block_tokens))

    @torch.inference_mode()
    def __call__(
        self, states: torch.Tensor, stored: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """argmax int32 [R] and log-sum-exp float32 [R] of the rows, equal on all ranks.

        `states` [R, H] are the target's in its dtype; the argmax is of the logits in that dtype,
        the lowest id among equals. `stored` [R, H] are the same states as a reader will decode
        them, so that a probability on the draft vocabulary never exceeds one; pass `states` itself
        if nothing was lost. Every rank passes the same rows.
        """
        states = states.to(self.head.weight.device)
        stored = states if stored is states else stored.to(states.device)
        rows = len(states)
        best = torch.full((rows,), -torch.inf, device=states.device)
        argmax = torch.zeros(rows, dtype=torch.int32, device=states.device)
        lse = torch.full((rows,), -torch.inf, device=states.device)
        for start, part in self._blocks():
            for first in range(0, rows, self.block_rows):
                block = slice(first, first + self.block_rows)
                decoded = None if stored is states else stored[block]
                logits, exact = _logits(part, states[block], decoded)
                value, token = logits.max(dim=-1)  # the first among equals
                better = value.float() > best[block]  # not >=: an earlier block has lower ids
                best[block] = torch.where(better, value.float(), best[block])
                argmax[block] = torch.where(better, token.int() + start, argmax[block])
                lse[block] = torch.logaddexp(lse[block], torch.logsumexp(exact, dim=-1))
        return self._merge(best, argmax, lse)

    def _blocks(self) -> Iterator[tuple[int, Head]]:
        """This rank's part of the head in blocks, each with its first token id."""
        size = len(self.head.weight)
        for start in range(0, size, self.block_tokens):
            stop = min(start + self.block_tokens, size)
            yield self.first + start, self.head.part(start, stop)

    def _merge(
        self, best: torch.Tensor, argmax: torch.Tensor, lse: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The ranks' parts merged; all three are [R]."""
        if self.ranks.world == 1 or len(best) == 0:
            return argmax, lse
        packed = torch.stack((best.view(torch.int32), argmax, lse.view(torch.int32)))  # [3, R]
        gathered = self.ranks.gather(packed)  # [ranks, 3, R]
        # ranks hold ascending ids, so the first rank among equals has the lowest
        winner = gathered[:, 0].contiguous().view(torch.float32).argmax(dim=0)  # [R]
        merged = torch.logsumexp(gathered[:, 2].contiguous().view(torch.float32), dim=0)
        return gathered[:, 1].gather(0, winner[None])[0], merged


def _logits(
    part: Head, states: torch.Tensor, stored: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """[R, V'] logits of `states` in its dtype, and float32 ones of `stored` (None: of `states`).

    On CUDA, the products in float32, once rounded, match the target's own logits as well as any
    order of summation does. On the CPU, where a plain pass is repeatable bit by bit, half precision
    needs a separate product (one logit in some 7,000 differs, by one bit).
    """
    products = part.exact_products(states if stored is None else stored)
    exact = part.finish(products)
    if stored is not None or (states.dtype in HALF_PRECISION and not states.is_cuda):
        return part.logits(states), exact
    same = states.dtype == products.dtype
    return exact if same else part.finish(products.to(states.dtype)), exact
