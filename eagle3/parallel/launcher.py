"""Early ends of a job's process: when torchrun dies, and on a request to stop.

A request to stop is SIGTERM, sent by batch systems at a time limit, a cancel or a preemption, or
SIGINT, sent by a terminal on Ctrl-C. Every process of a job may get one, or only a single rank;
ranks agree on the step through a number in a sum that they compute anyway.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from types import FrameType

from eagle3.errors import UserError

LAUNCHER = "EAGLE3_LAUNCHER"  # environment variable: the process that became torchrun
DEATH_OF_PARENT = 1  # PR_SET_PDEATHSIG of Linux
STOPPING = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "Ctrl-C"}


def end_with_launcher() -> None:
    """Request SIGTERM for this process once torchrun has died (killed for memory, for example).

    An orphaned rank would wait minutes for dead ranks, and the job would wait for its log. Raises
    UserError if torchrun has died already.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(DEATH_OF_PARENT, signal.SIGTERM)
    launcher = os.environ.get(LAUNCHER)
    if launcher is not None and os.getppid() != int(launcher):
        raise UserError("torchrun, which started this rank, has died")


class StopRequest:
    """Whether this process was signalled to stop, and by which signal."""

    def __init__(self) -> None:
        self.requested = False
        # of the signal; another rank's, if only that one got it
        self.name = STOPPING[signal.SIGTERM]

    def listen(self) -> None:
        """Treat the signals as a request until the process ends."""
        for number in STOPPING:
            if signal.getsignal(number) is not signal.SIG_IGN:  # SIGINT of a job in the background
                signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if not self.requested:  # torchrun sends SIGTERM to a rank whose neighbour has left
            self.name = STOPPING[signal.Signals(number)]
        self.requested = True
