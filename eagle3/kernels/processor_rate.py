"""How fast this machine's processor multiplies matrices in a type, as a target's layers do."""

from __future__ import annotations

import time
from functools import cache

import torch

SIZE, ROWS = 1024, 256
LEAST, MOST = 2, 8  # products after the first, which prepares
ENOUGH = 0.2  # seconds


@cache
def processor_rate(dtype: torch.dtype, threads: int) -> float:
    """FLOP/s of a plain product [256, 1024] x [1024, 1024] with so many threads: the best of a few,
    in a fraction of a second. A processor without instructions for bfloat16 takes a tenth of its
    rate in float32."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            return _best(torch.ones(ROWS, SIZE, dtype=dtype), torch.ones(SIZE, SIZE, dtype=dtype))
    finally:
        torch.set_num_threads(before)


def _best(rows: torch.Tensor, weight: torch.Tensor) -> float:
    torch.nn.functional.linear(rows, weight)
    least = float("inf")
    begun = time.perf_counter()
    for turn in range(MOST):
        started = time.perf_counter()
        torch.nn.functional.linear(rows, weight)
        least = min(least, time.perf_counter() - started)
        if turn + 1 >= LEAST and time.perf_counter() - begun > ENOUGH:
            break
    return 2.0 * rows.numel() * len(weight) / least
