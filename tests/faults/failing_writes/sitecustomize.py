"""A disk that fails, for one script: on PYTHONPATH, read by every Python that starts.

EAGLE3_FAILING_WRITE=script:n makes the n-th system call that puts a file of this script on the disk
(pwrite, fsync, rename) fail with EIO, as a dying disk would have it, and every one after it.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import Any


def arm(script: str, number: int) -> None:
    """Let the calls of a process that runs `script` fail from the given number on."""
    if not any(script in word for word in sys.orig_argv) or "snakemake" in sys.orig_argv:
        return
    counted = 0

    def failing(real: Any) -> Any:
        def call(*args: Any, **named: Any) -> Any:
            nonlocal counted
            counted += 1
            if counted >= number:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return real(*args, **named)

        return call

    for name in ("pwrite", "fsync", "replace"):
        setattr(os, name, failing(getattr(os, name)))


if given := os.environ.get("EAGLE3_FAILING_WRITE"):
    wanted, _, count = given.partition(":")
    arm(wanted, int(count))
