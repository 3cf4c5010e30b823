"""What one forward pass works on: documents side by side, with the states that belong to them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from eagle3.objective.shares import Shares, Sharing


@dataclass(frozen=True)
class Pack:
    """Tokens and stored states of some documents. N tokens, T rows of aux, R rows of last.

    Of a pack that several ranks share, each has all tokens, and only its share of the states.
    """

    input_ids: torch.Tensor  # int64 [N]
    loss_mask: torch.Tensor  # bool [N]
    documents: torch.Tensor  # int64 [N], 0..D-1 ascending
    positions: torch.Tensor  # int64 [N], from 0 in each document
    aux: torch.Tensor  # [T, 3H], or the rows of the share
    row_tokens: torch.Tensor  # int64 [T], token index of each row of aux
    last: torch.Tensor  # [R, H], or those of the share, as for the two below
    last_tokens: torch.Tensor  # int64 [R], token index of each row of last
    teacher_argmax: torch.Tensor  # int64 [R]
    teacher_lse: torch.Tensor  # float32 [R]
    shares: Shares | None = None  # who holds what, if ranks share the pack

    def tensors(self) -> dict[str, torch.Tensor]:
        """What the pack consists of, `shares` left out."""
        return {n: value for n, value in vars(self).items() if isinstance(value, torch.Tensor)}

    def shared(self, sharing: Sharing) -> Pack:
        """What a rank holds of a whole pack; in training no more than that is ever read."""
        shares = sharing.of(self.row_tokens, self.last_tokens)
        if shares is None:
            return self
        rows, taught = shares.mine.rows, shares.mine.taught
        return replace(
            self,
            aux=self.aux[rows],
            last=self.last[taught],
            teacher_argmax=self.teacher_argmax[taught],
            teacher_lse=self.teacher_lse[taught],
            shares=shares,
        )
