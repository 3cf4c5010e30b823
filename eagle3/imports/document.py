"""One document as another project stored it, and its check."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from eagle3.data.faults import BadRow

REMEDY = "remove or repair the files, or raise dataset.max_bad_fraction to train without them"


@dataclass(frozen=True)
class PeerDocument:
    """Tokens, mask and states of one document, including padding."""

    input_ids: np.ndarray  # int64 [L]
    loss_mask: np.ndarray  # int64 [L]
    aux: torch.Tensor  # [L, C * H], layers side by side
    last: torch.Tensor  # [L, H], before or after the final norm


class PeerFiles(Protocol):
    """Files of hidden states in another project's format."""

    normed: bool  # whether `last` is after the final norm

    def read(self, number: int) -> PeerDocument:
        """The document with this number. Raises BadRow if its file is damaged or inconsistent,
        UserError if it cannot be trusted."""
        ...


@dataclass(frozen=True)
class Expected:
    """The sizes that documents of a target must have."""

    vocab_size: int
    hidden_size: int
    layers: int  # captured ones

    def check(self, document: PeerDocument) -> None:
        """Raise BadRow unless a document has the target's shapes and valid values."""
        ids, mask, length = document.input_ids, document.loss_mask, len(document.input_ids)
        widths = self.layers * self.hidden_size, self.hidden_size
        for name, states, width in zip(
            ("aux states", "last states"), (document.aux, document.last), widths, strict=True
        ):
            if tuple(states.shape) != (length, width):
                shape = " x ".join(map(str, states.shape))
                raise BadRow(
                    f"{name} of another shape",
                    f"they are {shape}, expected {length} x {width}",
                    REMEDY,
                )
        if not length or mask.shape != ids.shape:
            raise BadRow("mask of another length than its tokens", "", REMEDY)
        if not np.isin(mask, (0, 1)).all():
            raise BadRow("mask with other values than 0 and 1", "", REMEDY)
        if int(ids.min()) < 0 or int(ids.max()) >= self.vocab_size:
            raise BadRow(
                "token ids outside the target's vocabulary",
                f"ids from {ids.min()} to {ids.max()}, vocabulary of {self.vocab_size}",
                REMEDY,
            )
        if not (_finite(document.aux) and _finite(document.last)):
            raise BadRow("states that are not finite", "", REMEDY)


def _finite(states: torch.Tensor) -> bool:
    """The same as `capture.shard_capture.all_finite`, which evaluations do not import."""
    low, high = states.aminmax()  # both are NaN where any state is
    return bool(torch.isfinite(low) & torch.isfinite(high))


def flat(states: torch.Tensor, rank: int) -> torch.Tensor:
    """A tensor without a leading batch dimension of one."""
    return states[0] if states.dim() == rank + 1 and len(states) == 1 else states
