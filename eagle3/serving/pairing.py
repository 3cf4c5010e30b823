"""Whether a draft can be a target's at all: shapes that must agree, before anything is decoded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from eagle3.draft.config import DraftConfig
from eagle3.errors import UserError


def check_pair(folder: Path, draft: DraftConfig, target: Any) -> None:
    """Raise UserError if a draft cannot be this target's (a transformers text configuration)."""
    pairs = {
        "hidden_size": (draft.hidden_size, target.hidden_size),
        "vocab_size": (draft.vocab_size, target.vocab_size),
    }
    for name, (own, asked) in pairs.items():
        if own != asked:
            raise UserError(
                f"{folder}: the draft's {name} is {own}, the target's {asked}: it was trained for "
                "another target"
            )
    if max(draft.aux_layers) >= target.num_hidden_layers:
        raise UserError(
            f"{folder}: the draft reads layers {list(draft.aux_layers)}, the target has "
            f"{target.num_hidden_layers}: it was trained for another target"
        )
