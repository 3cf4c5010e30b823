"""The GPUs of this machine: their number, memory and speed, for `eagle3 init`."""

from __future__ import annotations

import os
from dataclasses import dataclass

from eagle3.parallel.gpu_peaks import sustained_tflops
from eagle3.parallel.gpus import gpu_memory_and_name, visible_gpus


@dataclass(frozen=True)
class Devices:
    """GPUs to plan for: their number, memory of each in bytes, and name; None if unknown."""

    count: int
    memory: int | None = None
    name: str | None = None

    @property
    def tflops(self) -> int | None:
        """Sustained TFLOP/s of one of them; None if the model is unknown."""
        return sustained_tflops(self.name)


def devices(count: int | None) -> Devices:
    """The GPUs of this machine, or `count` of their kind."""
    here = len(visible_gpus(os.environ))
    memory, name = gpu_memory_and_name() if here else (None, None)
    return Devices(here if count is None else count, memory, name)
