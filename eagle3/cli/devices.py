"""The devices to plan for: those of this machine, or of another, for `eagle3 init`."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from eagle3.errors import UserError
from eagle3.parallel.gpu_peaks import DATA_SHEETS, least_memory, sustained_tflops
from eagle3.parallel.gpus import gpu_memory_and_name, visible_gpus

TYPICAL_MEMORY = 80e9  # bytes, of an unknown GPU
CORES_PER_GPU = 8  # of another machine


@dataclass(frozen=True)
class Devices:
    """GPUs to plan for: their number, bytes of memory of each, and name; None if unknown."""

    count: int
    memory: float | None = None
    name: str | None = None
    here: bool = True  # in this machine, whose cores then count

    @property
    def tflops(self) -> int | None:
        """Sustained TFLOP/s of one of them; None if the model is unknown."""
        return sustained_tflops(self.name)

    @property
    def cores(self) -> int:
        """CPU cores of the machine."""
        return (os.cpu_count() or 1) if self.here else CORES_PER_GPU * self.count

    @property
    def assumed(self) -> bool:
        """Whether only the number of GPUs is known."""
        return self.count > 0 and not self.here and self.name is None


def multiplies_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this processor has AMX, which takes six tenths of float32's time for a training."""
    with suppress(OSError):
        return "amx_bf16" in cpuinfo.read_text(encoding="utf-8").split()
    return False  # not Linux


def devices(count: int | None, name: str | None = None) -> Devices:
    """The GPUs of this machine, `count` of their kind, or `count` of another machine's.

    `name`: a GPU with published figures. Raises UserError if it has none.
    """
    if name is not None:
        memory = least_memory(name)
        if memory is None:
            raise UserError(f"--gpu: {name} is not known; choose from {', '.join(DATA_SHEETS)}")
        return Devices(1 if count is None else count, memory, name, here=False)
    visible = len(visible_gpus(os.environ))
    if not visible:
        return Devices(count, TYPICAL_MEMORY, here=False) if count else Devices(0)
    local_memory, local_name = gpu_memory_and_name()
    return Devices(visible if count is None else count, local_memory, local_name)
