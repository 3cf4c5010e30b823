"""A request to stop: SIGTERM, as batch systems send it at a time limit, a cancel or a preemption,
or SIGINT, as a terminal sends it on Ctrl-C.

Every process of a job may get one, or a single rank alone; ranks agree on the step by a number in
a sum they make anyway.
"""

from __future__ import annotations

import signal
from types import FrameType

NAMES = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "Ctrl-C"}


class StopRequest:
    """Whether this process was signalled to stop, and by which signal."""

    def __init__(self) -> None:
        self.requested = False
        self.name = NAMES[signal.SIGTERM]  # of the signal; another rank's, if only that one got it

    def listen(self) -> None:
        """Take the signals as a request from now on until the process ends."""
        for number in NAMES:
            if signal.getsignal(number) is not signal.SIG_IGN:  # SIGINT of a job in the background
                signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if not self.requested:  # torchrun sends SIGTERM to a rank whose neighbour has left
            self.name = NAMES[signal.Signals(number)]
        self.requested = True
