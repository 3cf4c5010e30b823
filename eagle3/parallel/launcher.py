"""What a rank owes to torchrun: it ends with it."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

from eagle3.errors import UserError

LAUNCHER = "EAGLE3_LAUNCHER"  # environment variable: the process that became torchrun
DEATH_OF_PARENT = 1  # PR_SET_PDEATHSIG of Linux


def end_with_launcher() -> None:
    """Have SIGTERM sent to this process once torchrun has died (killed for memory, say).

    An orphaned rank would wait minutes for others that never come, and the job would wait for its
    log. Raises UserError if torchrun is gone already.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(DEATH_OF_PARENT, signal.SIGTERM)
    launcher = os.environ.get(LAUNCHER)
    if launcher is not None and os.getppid() != int(launcher):
        raise UserError("torchrun, which started this rank, has died")
