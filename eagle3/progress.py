"""Progress of a long job: a bar with the time left on a terminal, plain lines in a log file."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable

from tqdm import tqdm

LOG_SECONDS = 5.0  # between two lines of a log file


class Progress:
    """Counts up to a total. Under Snakemake, where jobs write to a log, it is always lines."""

    def __init__(self, total: int, unit: str, log: logging.Logger) -> None:
        self.total, self.done, self.log = total, 0, log
        self.bar = tqdm(
            total=total,
            unit=f" {unit}",
            unit_scale=total >= 10_000,
            disable=not sys.stderr.isatty(),
            dynamic_ncols=True,
        )
        self._logged = time.monotonic()

    def advance(self, count: int, line: Callable[[], str]) -> None:
        """Count `count` more as done; `line` gives the state as text, for the log and the end."""
        self.done += count
        last, now = self.done >= self.total, time.monotonic()
        self.bar.update(count)
        if last:
            self.bar.close()
        if last or (self.bar.disable and now - self._logged > LOG_SECONDS):
            self._logged = now
            self.log.info(line())

    def close(self) -> None:
        """Restore the terminal when the job ends early."""
        self.bar.close()
