"""What a sliding window of the draft (`draft.sliding_window`) goes together with."""

from __future__ import annotations

from eagle3.errors import UserError


def check_window(backend: str, window: int, chain: int) -> None:
    """Raise UserError if attention cannot slide, or if a row of a chain of `chain` steps would not
    see the true state that the chain starts from."""
    if backend == "flash":
        raise UserError(
            f"train.attention_backend is flash but draft.sliding_window is {window}: its kernels "
            "see whole documents; use auto"
        )
    if window < chain:
        raise UserError(
            f"draft.sliding_window is {window}, shorter than a chain of {chain} steps "
            "(train.ttt_steps, evaluation.num_speculative_tokens)"
        )
