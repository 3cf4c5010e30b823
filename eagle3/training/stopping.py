"""A request to stop: SIGTERM, as batch systems send it at a time limit, a cancel or a preemption.

Every process of a job may get one, or a single rank alone; ranks agree on the step by a number in
a sum they make anyway.
"""

from __future__ import annotations

import signal
from types import FrameType


class StopRequest:
    """Whether this process has been asked to stop."""

    def __init__(self) -> None:
        self.asked = False

    def listen(self) -> None:
        """Take SIGTERM as a request from now on until the process ends."""
        signal.signal(signal.SIGTERM, self._hear)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
