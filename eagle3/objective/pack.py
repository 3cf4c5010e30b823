"""What one forward pass works on: documents side by side, with the states that belong to them."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Pack:
    """Tokens and stored states of some documents. N tokens, T rows of aux, R rows of last."""

    input_ids: torch.Tensor  # int64 [N]
    loss_mask: torch.Tensor  # bool [N]
    documents: torch.Tensor  # int64 [N], 0..D-1 ascending
    positions: torch.Tensor  # int64 [N], from 0 in each document
    aux: torch.Tensor  # [T, 3H]
    row_tokens: torch.Tensor  # int64 [T], token index of each row of aux
    last: torch.Tensor  # [R, H]
    last_tokens: torch.Tensor  # int64 [R], token index of each row of last
    teacher_argmax: torch.Tensor  # int64 [R]
    teacher_lse: torch.Tensor  # float32 [R]
