"""Limits of the attention back ends: of their kernels, from PyTorch's sources (flash_api.cpp, and
flex_attention.py of Inductor), and with a sliding window. Imports no torch: also used before any
job."""

from __future__ import annotations

from eagle3.errors import UserError

HALF = ("bfloat16", "float16")
# backward pass of Inductor's flex attention with heads wider than this: shared memory of a block
# without pipelining, more than GPUs of compute capability 8.6, 8.9 and 12.0 have (99 KB)
FLEX_NARROW, FLEX_WIDE_BYTES = 128, 134 * 1024


def unsupported_reason(name: str, device: str, precision: str, head_dim: int) -> str | None:
    """Why a back end cannot train in `precision` on any device of this kind (cpu, cuda); None if it
    can. The text continues "train.attention_backend is flash, ..."."""
    if device != "cuda":
        if name == "flex":
            return "which has no backward pass on a CPU"
        return None
    if name == "flash":
        if precision not in HALF:
            return "whose kernel takes half precision only (train.precision bfloat16)"
        if head_dim % 8 or head_dim > 256:
            return f"whose kernel takes heads of 8, 16, … 256 numbers, not of {head_dim}"
    if name == "flex" and head_dim < 16:
        return f"whose kernel takes heads of 16 numbers or more, not of {head_dim}"
    return None


def check_window(backend: str, window: int, chain: int) -> None:
    """Raise UserError if the back end has no sliding window, or if a row in a chain of `chain`
    steps would not see the true state that the chain starts from."""
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
