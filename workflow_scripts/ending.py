"""The end of a job: one sentence, whatever the cause and the number of ranks.

Imports nothing of the project or of a library at its top: it is active while those load.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import NoReturn

INTERRUPTED = "stopped by Ctrl-C; the same command continues from what is finished"
INTERRUPT_CODE = 128 + signal.SIGINT  # as in shells
# errors of the disk, with a remedy for each
REMEDIES = {
    errno.ENOSPC: "free some space, then give the same command again",
    errno.EDQUOT: "free some space or ask for more, then give the same command again",
    errno.EROFS: "make it writable, or put the run elsewhere (snakemake --directory)",
    errno.EACCES: "change its permissions, or put the run elsewhere (snakemake --directory)",
    errno.EPERM: "change its permissions, or put the run elsewhere (snakemake --directory)",
    errno.EIO: "check the disk, then give the same command again",
}
CHATTY = ("httpx2", "filelock", "matplotlib", "datasets", "boto3", "botocore")
ERROR_FILE = "TORCHELASTIC_ERROR_FILE"  # set by torchrun: <folder of its ranks>/<rank>/error.json


def leave_at_once_on_interrupt() -> None:
    """End the process on SIGINT without running any further code of the libraries it imports: an
    interrupted import may raise anything. Nothing has been written yet."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as of a job in the background
        signal.signal(signal.SIGINT, _leave)


def _leave(number: int, frame: FrameType | None) -> None:
    if first_of_ranks():
        os.write(2, f"error: {INTERRUPTED}\n".encode())
    os._exit(INTERRUPT_CODE)


def run(main: Callable[[], None]) -> None:
    """Run `main`. An error that the user can fix ends it with one sentence and exit code 1, Ctrl-C
    with one sentence and 130 (see `OneSentence`)."""
    import logging

    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(message)s",
        datefmt="%Y-%m-%d %H:%M:%S",
    )
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.raiseExceptions = False  # lines that do not fit on the disk are silently lost
    with OneSentence():
        main()


class OneSentence:
    """A context that turns the cause of a job's end into a sentence on stderr and an exit code.

    Bugs of this project keep their traceback. Of the ranks of one machine only the first to fail
    prints anything: the others fail because of it.
    """

    def __init__(self) -> None:
        self._interrupted = False

    def __enter__(self) -> None:
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, self._interrupt)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        # torchrun forwards the signal that the terminal has sent already
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._interrupted = True
        raise KeyboardInterrupt

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if fault is None or isinstance(fault, SystemExit):
            return
        if self._interrupted or isinstance(fault, KeyboardInterrupt):
            end(INTERRUPTED, INTERRUPT_CODE)
        sentence = sentence_of(fault)
        if sentence is not None:
            end(sentence)
        if not first_of_ranks():
            sys.exit(1)


def sentence_of(fault: BaseException) -> str | None:
    """The message for an error that the user can fix; None for one that needs a traceback."""
    from eagle3.errors import UserError, first_line

    if isinstance(fault, UserError):
        return str(fault)
    if isinstance(fault, OSError) and fault.errno in REMEDIES:
        # a failed write to an open file has no file name
        has_name = isinstance(fault.filename, (str, bytes, os.PathLike))
        name = os.fsdecode(fault.filename) if has_name else "a temporary file or the log"
        return f"{name}: {os.strerror(fault.errno)}: {REMEDIES[fault.errno]}"
    if _is_lost_rank(fault):
        return f"another rank has ended: {first_line(fault)}"
    return None


def _is_lost_rank(fault: BaseException) -> bool:
    """Whether this rank failed because one on another machine did, which has printed the reason."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or "torch" not in sys.modules:
        return False
    from torch.distributed import DistError

    return isinstance(fault, DistError) or (
        isinstance(fault, RuntimeError) and "gloo" in str(fault)
    )


def end(sentence: str, code: int = 1) -> NoReturn:
    """Print the reason, unless another rank has, and end the process."""
    if first_of_ranks():
        with suppress(OSError, ValueError):  # the log may be on the full disk
            print(f"error: {sentence}", file=sys.stderr, flush=True)
    sys.exit(code)


def first_of_ranks() -> bool:
    """Whether no other rank on this machine has failed before; each rank calls it once."""
    error_file = os.environ.get(ERROR_FILE)
    if error_file is None:
        return True
    try:
        os.close(os.open(Path(error_file).parents[1] / "failed", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    except OSError:  # better printed twice than never
        return True
    return True
