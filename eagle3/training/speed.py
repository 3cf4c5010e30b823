"""The speed of a step: time by phase, and the rate of a matrix product to compare it with."""

from __future__ import annotations

import time
from functools import cache

import torch

from eagle3.kernels.matmul import times_transposed

PHASES = ("fetch", "forward", "backward", "optimizer")


class Stopwatch:
    """Seconds of each phase of a step. On CUDA the device's clock is read at the end, so nothing
    waits for the device in between."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.marks: list[tuple[str, float | torch.cuda.Event]] = [("", self._now())]

    def _now(self) -> float | torch.cuda.Event:
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def end(self, phase: str) -> None:
        """Attribute the time since the last call to `phase`."""
        self.marks.append((phase, self._now()))

    def seconds(self) -> dict[str, float]:
        """Seconds of every phase so far."""
        totals = dict.fromkeys(PHASES, 0.0)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        for (_, before), (phase, after) in zip(self.marks, self.marks[1:], strict=False):
            if isinstance(before, float) and isinstance(after, float):
                totals[phase] += after - before
            elif not isinstance(before, float) and not isinstance(after, float):
                totals[phase] += before.elapsed_time(after) / 1e3
        return totals


@cache
def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a large matrix product on the device, with the threads of this process: the
    reference for a training step. Takes about half a second."""
    size = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = 0.0
    deadline = time.monotonic() + 0.4
    for turn in range(10):
        watch = Stopwatch(device)
        times_transposed(a, b)
        watch.end("forward")
        seconds = watch.seconds()["forward"]
        if turn > 0:
            best = max(best, 2.0 * size**3 / seconds)
        if turn > 1 and time.monotonic() > deadline:
            break
    return best
