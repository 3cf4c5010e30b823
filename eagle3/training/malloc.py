"""Memory of a CPU's training process."""

from __future__ import annotations

import ctypes

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
LARGEST = 2**30


def keep_freed_memory() -> bool:
    """Have the C library keep freed memory, where it supports that.

    Every step asks for the same sizes again. Given back to the system in between, each page would
    be cleared and mapped again.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(TRIM_THRESHOLD, LARGEST) and mallopt(MMAP_THRESHOLD, LARGEST))
