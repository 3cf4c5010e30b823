"""A small file system in memory that can be full, and folders of it that cannot be written."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SIZE = 600_000_000  # bytes


class Volume:
    """Mounted at `place`; needs root."""

    def __init__(self, place: Path) -> None:
        """Raises PermissionError where nothing can be mounted."""
        place.mkdir(parents=True, exist_ok=True)
        self.place = place
        _mount("-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(place))

    @contextmanager
    def full(self, leaving: int) -> Iterator[None]:
        """Nothing can be written inside but the bytes left."""
        filler = self.place / "filler"
        with open(filler, "wb") as handle:
            try:
                while True:
                    free = os.statvfs(self.place).f_bavail * os.statvfs(self.place).f_frsize
                    if free <= leaving + 4096:
                        break
                    end = handle.seek(0, os.SEEK_END)
                    os.posix_fallocate(handle.fileno(), end, max(4096, free - leaving - 4096))
                    handle.seek(0, os.SEEK_END)
            except OSError:
                pass  # somebody else took the rest
        try:
            yield
        finally:
            filler.unlink()

    @contextmanager
    def read_only(self, folder: Path) -> Iterator[None]:
        """A folder that can be read only."""
        _mount("--bind", str(folder), str(folder))
        try:
            _mount("-o", "remount,ro,bind", str(folder))
            yield
        finally:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)

    def close(self) -> None:
        subprocess.run(["umount", "--lazy", str(self.place)], check=True)


def _mount(*words: str) -> None:
    done = subprocess.run(["mount", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise PermissionError(done.stderr.strip())
