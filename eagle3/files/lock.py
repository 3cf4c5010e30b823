"""A lock on an open file, which the system releases when the process ends, however it ends."""

from __future__ import annotations

import fcntl
import logging
from typing import IO

from eagle3.errors import UserError

log = logging.getLogger(__name__)


def hold(file: IO[str], busy: str) -> None:
    """Lock a file until it is closed. Raises UserError with the sentence `busy` if another process
    has the lock. Warns where the file system has no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(busy) from None
    except OSError as fault:  # Lustre mounted without flock, NFS without its lock daemon
        log.warning(
            "%s: cannot be locked (%s), so nothing notices if two jobs do the same here",
            file.name,
            fault.strerror,
        )
