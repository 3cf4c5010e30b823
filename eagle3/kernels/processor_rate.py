"""The rate at which this machine's processor multiplies matrices of a type, as in a target."""

from __future__ import annotations

import time
from functools import cache

import torch

SIZE, ROWS = 1024, 256
LEAST, MOST = 2, 8  # timed products, after one that warms up
ENOUGH = 0.2  # seconds after which no more are timed


@cache
def processor_rate(dtype: torch.dtype, threads: int) -> float:
    """FLOP/s of a plain product [256, 1024] x [1024, 1024] with so many threads: the best of a few,
    in a fraction of a second. A processor without instructions for bfloat16 takes a tenth of its
    rate in float32."""
    old_threads = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            return _best(torch.ones(ROWS, SIZE, dtype=dtype), torch.ones(SIZE, SIZE, dtype=dtype))
    finally:
        torch.set_num_threads(old_threads)


def _best(rows: torch.Tensor, weight: torch.Tensor) -> float:
    torch.nn.functional.linear(rows, weight)
    fastest = float("inf")
    begin = time.perf_counter()
    for i in range(MOST):
        started = time.perf_counter()
        torch.nn.functional.linear(rows, weight)
        fastest = min(fastest, time.perf_counter() - started)
        if i + 1 >= LEAST and time.perf_counter() - begin > ENOUGH:
            break
    return 2.0 * rows.numel() * len(weight) / fastest
