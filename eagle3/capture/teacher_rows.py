"""The teacher over the whole vocabulary, of the rows that are stored: its argmax and log-sum-exp.

Logits are made block by block and never kept. Under tensor parallelism each rank holds a slice of
the vocabulary, and the ranks' parts are merged at the end.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from eagle3.parallel.ranks import Ranks
from eagle3.target_model.reader import HALF_PRECISION, Head

BLOCK_BYTES = 64 * 2**20  # of float32 logits held at once; about the second-level cache of a GPU


class TeacherRows:
    """Argmax and log-sum-exp of the target's logits at some rows."""

    def __init__(
        self, head: Head, dtype: torch.dtype, ranks: Ranks, block_bytes: int = BLOCK_BYTES
    ) -> None:
        """`head` is the whole head, on any device; this rank's slice of it goes to
        `ranks.device` in the target's `dtype`."""
        vocab, hidden = head.weight.shape
        self.first, stop = (vocab * (ranks.rank + i) // ranks.world for i in (0, 1))
        self.head = head.part(self.first, stop).to(ranks.device, dtype)
        self.ranks = ranks
        # a block of the weight may be converted to float32, so it has the same bound
        self.block_tokens = max(1, min(block_bytes // (4 * hidden), max(1, stop - self.first)))
        self.block_rows = max(1, block_bytes // (4 * self.block_tokens))

    @torch.inference_mode()
    def __call__(
        self, own: torch.Tensor, stored: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """argmax int32 [R] and log-sum-exp float32 [R] of the rows, equal on all ranks.

        `own` [R, H] are the target's states in its dtype; the argmax is of the logits in that
        dtype, the lowest id among equals. `stored` [R, H] are the same states as a reader will
        decode them, so that a probability on the draft vocabulary never exceeds one; pass `own`
        itself if nothing was lost. Every rank passes the same rows.
        """
        own = own.to(self.head.weight.device)
        stored = own if stored is own else stored.to(own.device)
        rows = len(own)
        best = torch.full((rows,), -torch.inf, device=own.device)
        argmax = torch.zeros(rows, dtype=torch.int32, device=own.device)
        lse = torch.full((rows,), -torch.inf, device=own.device)
        for start, part in self._blocks():
            for first in range(0, rows, self.block_rows):
                at = slice(first, first + self.block_rows)
                same = stored is own
                logits, exact = _logits(part, own[at], None if same else stored[at])
                value, token = logits.max(dim=-1)  # the first of equals
                better = value.float() > best[at]  # not >=: an earlier block has lower ids
                best[at] = torch.where(better, value.float(), best[at])
                argmax[at] = torch.where(better, token.int() + start, argmax[at])
                lse[at] = torch.logaddexp(lse[at], torch.logsumexp(exact, dim=-1))
        return self._merged(best, argmax, lse)

    def _blocks(self) -> Iterator[tuple[int, Head]]:
        """This rank's part of the head in blocks, each with its first token id."""
        size = len(self.head.weight)
        for start in range(0, size, self.block_tokens):
            stop = min(start + self.block_tokens, size)
            yield self.first + start, self.head.part(start, stop)

    def _merged(
        self, best: torch.Tensor, argmax: torch.Tensor, lse: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The ranks' parts put together; all three are [R]."""
        if self.ranks.world == 1 or len(best) == 0:
            return argmax, lse
        packed = torch.stack((best.view(torch.int32), argmax, lse.view(torch.int32)))  # [3, R]
        every = self.ranks.gather(packed)  # [ranks, 3, R]
        # ranks hold ascending ids, so the first rank of equals has the lowest
        winner = every[:, 0].contiguous().view(torch.float32).argmax(dim=0)  # [R]
        merged = torch.logsumexp(every[:, 2].contiguous().view(torch.float32), dim=0)
        return every[:, 1].gather(0, winner[None])[0], merged


def _logits(
    part: Head, own: torch.Tensor, stored: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """[R, V'] logits of `own` in its dtype, and float32 ones of `stored` (None: of `own`).

    On CUDA the products in float32, rounded, are the target's own logits as well as any other
    order of summation gives them. On the CPU, where a plain pass is repeatable bit by bit, half
    precision is a separate product (it differs in one logit of some 7,000, by one bit).
    """
    products = part.exact_products(own if stored is None else stored)
    exact = part.finish(products)
    if stored is not None or (own.dtype in HALF_PRECISION and not own.is_cuda):
        return part.logits(own), exact
    return (exact if own.dtype == products.dtype else part.finish(products.to(own.dtype))), exact
