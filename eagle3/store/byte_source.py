"""Where the bytes of a hidden-state shard come from: a local file or an object."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from eagle3.errors import UserError
from eagle3.files.artifact import REMAKE
from eagle3.files.object_storage import ObjectFile, download, is_object

Address = Path | str  # a local file, or s3://bucket/key


def address(text: str) -> Address:
    """An address from a command line. An object's stays text: a Path drops a slash of s3://."""
    return text if is_object(text) else Path(text)


def open_source(source: Address) -> LocalFile | ObjectFile:
    """Open a file or object. Raises UserError if it does not exist."""
    return ObjectFile(str(source)) if is_object(source) else LocalFile(Path(source))


def copy_file(source: Address, path: Path) -> None:
    """Copy a file or object to `path`. Raises UserError if an object cannot be read."""
    if is_object(source):
        download(str(source), path)
    else:
        shutil.copyfile(source, path)


class LocalFile:
    """Reads ranges of a file straight into the caller's buffer, which may be pinned memory.

    One copy, no page faults, and a file that is truncated meanwhile raises an error, not a signal.
    """

    def __init__(self, path: Path) -> None:
        self.name, self.size = path, 0
        with self._open() as file:
            self.size = os.fstat(file).st_size

    def read(self, pieces: Sequence[tuple[int, memoryview]]) -> None:
        """Fill each buffer with the file's bytes from its offset on.

        Raises UserError if the file is gone or shorter.
        """
        with self._open() as file:
            for start, buffer in pieces:
                offset, rest = start, buffer
                while rest:
                    count = os.preadv(file, [rest], offset)
                    if count == 0:
                        raise UserError(f"{self.name}: ends too early: {REMAKE}")
                    rest, offset = rest[count:], offset + count

    def will_need(self, spans: Sequence[tuple[int, int]]) -> None:
        """Have the system prefetch ranges (first byte, bytes) from the disk; returns at once."""
        if not hasattr(os, "posix_fadvise"):
            return  # macOS
        with self._open() as file:
            for offset, size in spans:
                os.posix_fadvise(file, offset, size, os.POSIX_FADV_WILLNEED)

    @contextmanager
    def _open(self) -> Iterator[int]:
        """The file, opened for one document: thousands of shards may be in use at once."""
        try:
            file = os.open(self.name, os.O_RDONLY)
        except FileNotFoundError:
            raise UserError(f"{self.name}: no such file") from None
        except OSError as fault:
            raise UserError(f"{self.name}: cannot be read: {fault.strerror}") from None
        try:
            yield file
        except OSError as fault:  # a broken disk, a stale mount
            raise UserError(f"{self.name}: cannot be read: {fault.strerror}") from None
        finally:
            os.close(file)
