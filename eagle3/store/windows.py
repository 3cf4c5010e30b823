"""Rolling mode: two windows of hidden states on the disk, never a third.

Stage s trains on its window while the window of stage s + 1 is captured. The capture of the window
of stage s + 2 waits for the checkpoint of stage s, with which the window of stage s is removed.

    training   s - 1            s                s + 1
    capture    s                s + 1            s + 2
    disk       s - 1 and s      s and s + 1      s + 1 and s + 2
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from eagle3.tokens.stages import Stages


def peak_of_windows(shards: Sequence[int], stages: Stages) -> int:
    """Most bytes on the disk at once, `shards` being the bytes of each shard in order."""
    sizes = [sum(shards[i] for i in stages.shards_of(stage)) for stage in stages.numbers]
    return max((a + b for a, b in pairwise([*sizes, 0])), default=0)


def largest_window(shards: Sequence[int], stages: Stages, available: int) -> int:
    """The most shards per window whose peak fits into `available` bytes; 0 if none do."""
    for window in range(len(shards), 0, -1):
        if peak_of_windows(shards, replace(stages, window_shards=window)) <= available:
            return window
    return 0


def stage_folder(folder: Path, stage: int) -> Path:
    """The folder of the states of a stage's window; `folder` is that of a split."""
    return folder / f"stage-{stage:04d}"


def bytes_beside(folder: Path, stage: int | None = None) -> int:
    """Bytes of all windows in `folder` except that of `stage`."""
    total = 0
    for number, path in _shards(folder):
        if number != stage:
            with suppress(FileNotFoundError):  # just removed, or renamed by its job
                total += path.stat().st_size
    return total


def drop_other_windows(folder: Path, stage: int) -> None:
    """Make room for the window of `stage`: only it and its neighbours may be on the disk.

    What is removed was left by a run that was killed, or whose settings have changed: when the
    window of stage s is captured, stage s - 2 is done and s + 2 has not begun.
    """
    for number, path in _shards(folder):
        if abs(number - stage) > 1:
            path.unlink(missing_ok=True)


def _shards(folder: Path) -> Iterator[tuple[int, Path]]:
    """Finished and unfinished shards of every window."""
    for path in sorted(folder.glob("stage-*/*")):
        number = path.parent.name.removeprefix("stage-")
        if number.isdecimal() and ".safetensors" in path.name:  # not a user's stage-0001.bak
            yield int(number), path
