"""The one way in which tests wait: for a condition, never for a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

LIMIT = 300.0  # seconds, for a busy machine
PAUSE = 0.05  # seconds between two looks
Found = TypeVar("Found")


def wait_for(
    condition: Callable[[], Found],
    what: str,
    limit: float = LIMIT,
    state: Callable[[], object] | None = None,
    hopeless: Callable[[], str | None] | None = None,
) -> Found:
    """What `condition` returns as soon as that is true.

    Raises AssertionError, with `what` was waited for, when the limit has passed or `hopeless` says
    why the condition cannot come true any more. `state`: what is told of the moment of the failure;
    by default the last thing that `condition` returned.
    """
    end = time.monotonic() + limit
    while True:
        # asked before the condition is looked at: what came just before an end counts
        cause = hopeless() if hopeless else None
        late = time.monotonic() > end
        if result := condition():
            return result
        if cause:
            raise AssertionError(f"waited for {what}: {cause}")
        if late:
            raise AssertionError(f"waited {limit:.0f} s for {what}: {state() if state else result}")
        time.sleep(PAUSE)
