"""What GPUs can do at most, by their names."""

from __future__ import annotations

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


def sustained_tflops(name: str | None) -> int | None:
    """TFLOP/s that a GPU of this name sustains, in bfloat16; None if its peak is not known."""
    known = [key for key in PEAKS if name and key in name]
    return round(SUSTAINED * PEAKS[max(known, key=len)]) if known else None
