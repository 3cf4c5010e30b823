"""Whether hidden states fit on the disk: the plan asks, and each capture before it writes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from eagle3.errors import UserError

GB = 10**9
ALIKE = 0.25  # a file this near to its planned size holds these states; compression is a guess


def largest_window(shards: Sequence[int], available: int) -> int:
    """The most shards per window such that any two windows in a row fit into `available` bytes.

    `shards`: bytes of each, in order. 0 if not even windows of one shard fit.
    """
    ends = [0]
    for size in shards:
        ends.append(ends[-1] + size)
    count = len(shards)
    for window in range(count, 0, -1):
        starts = range(0, count, window)
        if all(ends[min(s + 2 * window, count)] - ends[s] <= available for s in starts):
            return window
    return 0


def shortage(shards: Sequence[int], available: int, limit: str) -> str | None:
    """One sentence if shards still to come, of these bytes, do not fit, naming what would.

    `limit` says what sets the bound, such as "are free".
    """
    total = sum(shards)
    if total <= available:
        return None
    fitting, room = 0, available
    for size in shards:
        room -= size
        if room < 0:
            break
        fitting += 1
    window = largest_window(shards, available)
    rolling = (
        f"for rolling mode the largest window_shards is {window}"
        if window
        else "not even two shards fit at once, so use a smaller dataset.shard_size"
    )
    return (
        f"hidden states need {_gb(total)} but {_gb(available)} {limit}: {fitting} of the "
        f"{len(shards)} shards still to come fit, so lower dataset.num_samples, or use a smaller "
        f"hidden_states.codec or another disk; {rolling}"
    )


@dataclass(frozen=True)
class Room:
    """What a folder of hidden states holds of a run, and what it has room for."""

    coming: list[int]  # bytes of the shards that are not there yet, in order
    free: int  # bytes that they may take: of the disk, and of what they replace
    present: int  # bytes of shards that are there

    @classmethod
    def of(cls, folder: Path, planned: Mapping[str, int]) -> Room:
        """`planned`: bytes of every shard of the run by file name.

        A file of another size was captured under other settings and will be replaced. What other
        jobs are writing counts as coming, and the blocks it has taken already as free.
        """
        sizes, taken = _listing(folder)
        coming, replaced, present = [], 0, 0
        for name, size in planned.items():
            found = sizes.get(name)
            if found is not None and abs(found - size) <= ALIKE * size + 2**16:
                present += found
                continue
            coming.append(size)
            replaced += (found or 0) + taken.get(name, 0)
        return cls(coming, shutil.disk_usage(_existing(folder)).free + replaced, present)

    def shortage(self, budget_gb: float | None, reserved: int = 0) -> str | None:
        """One sentence if the shards do not fit into the disk, `reserved` bytes of it kept for
        other files, or into the budget of all hidden states."""
        limit = "are free" if not reserved else "are free beside the checkpoints"
        found = shortage(self.coming, self.free - reserved, limit)
        if found is None and budget_gb is not None:
            limit = f"are left of resources.disk_budget_gb {budget_gb:g}"
            found = shortage(self.coming, int(budget_gb * GB) - self.present, limit)
        return found


def check_space(
    out: Path, own_bytes: int, planned: Mapping[str, int], budget_gb: float | None
) -> None:
    """Raise UserError if the shards still to come do not fit into the disk or the budget.

    `own_bytes`: of the shard that `out` will be. `planned`: bytes of every shard by file name,
    empty if there is no plan yet; then only the own shard is known to come.
    """
    sentence = Room.of(out.parent, {**planned, out.name: own_bytes}).shortage(budget_gb)
    if sentence is not None:
        raise UserError(sentence)


def _listing(folder: Path) -> tuple[dict[str, int], dict[str, int]]:
    """Bytes of the finished files, and blocks taken by unfinished ones, by the name to come."""
    sizes: dict[str, int] = {}
    taken: dict[str, int] = {}
    if folder.is_dir():
        for entry in os.scandir(folder):
            try:
                stat = entry.stat()
            except FileNotFoundError:
                continue  # another job has just given it its name
            if entry.name.endswith(".tmp"):
                name = entry.name[1:].rsplit(".", 2)[0]
                taken[name] = taken.get(name, 0) + stat.st_blocks * 512  # the files have holes
            else:
                sizes[entry.name] = stat.st_size
    return sizes, taken


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    while not folder.exists():
        folder = folder.parent
    return folder


def _gb(size: int) -> str:
    return f"{max(size, 0) / GB:,.3f} GB" if size > GB // 10 else f"{max(size, 0) / GB:.3g} GB"
