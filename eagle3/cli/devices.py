"""The GPUs of this machine: their number, memory and speed, for `eagle3 init`."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass

from eagle3.parallel.gpus import visible_gpus

MIB = 2**20
# dense bfloat16 peak of the data sheets in TFLOP/s, by a part of the name in nvidia-smi
PEAKS = {
    "B300": 2250,
    "B200": 2250,
    "GB200": 2500,
    "H200": 989,
    "H100": 989,
    "H800": 989,
    "H20": 148,
    "A100": 312,
    "A800": 312,
    "L40S": 362,
    "L4": 121,
    "A10": 125,
    "RTX 4090": 165,
    "RTX 5090": 209,
}
SUSTAINED = 0.4  # share of the peak that capture and training reach


@dataclass(frozen=True)
class Devices:
    """GPUs to plan for: their number, memory of each in bytes, and name; None if unknown."""

    count: int
    memory: int | None = None
    name: str | None = None

    @property
    def tflops(self) -> int | None:
        """Sustained TFLOP/s of one of them; None if the model is unknown."""
        known = [key for key in PEAKS if self.name and key in self.name]
        return round(SUSTAINED * PEAKS[max(known, key=len)]) if known else None


def devices(count: int | None) -> Devices:
    """The GPUs of this machine, or `count` of their kind."""
    here = len(visible_gpus(os.environ))
    memory, name = _first() if here else (None, None)
    return Devices(here if count is None else count, memory, name)


def _first() -> tuple[int | None, str | None]:
    """Memory and name of the first GPU that nvidia-smi lists."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None, None
    query = ["--query-gpu=memory.total,name", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(  # noqa: S603 - found in PATH
            [program, *query], capture_output=True, text=True, timeout=60, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None, None
    memory, _, name = done.stdout.partition("\n")[0].partition(", ")
    return (int(memory) * MIB if memory.isdigit() else None), name or None
