"""Peak rates and memory of GPUs by name."""

from __future__ import annotations

import re

# by a part of the name in nvidia-smi, from data sheets: dense bfloat16 TFLOP/s, and memory in GB
# (of models that come with different memories, the least)
DATA_SHEETS = {
    "B300": (2250, 270),
    "B200": (2250, 180),
    "GB200": (2500, 186),
    "H200": (989, 141),
    "H100": (989, 80),
    "H800": (989, 80),
    "H20": (148, 96),
    "A100": (312, 40),
    "A800": (312, 40),
    "L40S": (362, 48),
    "L40": (181, 48),
    "L4": (121, 24),
    "A10": (125, 24),
    "RTX 4090": (165, 24),
    "RTX 5090": (209, 32),
}
SUSTAINED = 0.4  # share of the peak that capture and training reach


def known_gpu(name: str | None) -> str | None:
    """The table's key for a GPU name; None if there is none."""
    matches = [key for key in DATA_SHEETS if name and key.lower() in name.lower()]
    return max(matches, key=len) if matches else None


def peak_tflops(name: str | None) -> int | None:
    """Peak TFLOP/s in bfloat16 of a GPU of this name; None if unknown."""
    entry = known_gpu(name)
    return DATA_SHEETS[entry][0] if entry else None


def sustained_tflops(name: str | None) -> int | None:
    """TFLOP/s that a GPU of this name sustains, in bfloat16; None if its peak is unknown."""
    peak = peak_tflops(name)
    return None if peak is None else round(SUSTAINED * peak)


def least_memory(name: str) -> float | None:
    """Bytes of memory of a GPU by its name, such as `A100 80GB`, else the smallest variant; None if
    unknown."""
    entry, stated = known_gpu(name), re.search(r"(\d+) ?GB", name)
    if entry is None:
        return None
    return (int(stated[1]) if stated else DATA_SHEETS[entry][1]) * 1e9
