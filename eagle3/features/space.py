"""Whether hidden states fit on the disk: the plan asks, and each capture before it writes."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from eagle3.errors import UserError

GB = 10**9


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
    """One sentence if shards of these bytes do not fit into `available`, naming what would.

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
        f"two windows fit at once with window_shards {window} at most"
        if window
        else "not even two shards fit at once, so use a smaller dataset.shard_size"
    )
    return (
        f"hidden states need {_gb(total)} but {_gb(available)} {limit}: "
        f"the first {fitting} of {len(shards)} shards fit (dataset.num_samples); {rolling}; a "
        "smaller hidden_states.codec or another disk helps too"
    )


def check_space(
    out: Path, own_bytes: int, planned: Mapping[str, int], budget_gb: float | None
) -> None:
    """Raise UserError if the shards still to come do not fit into the disk or the budget.

    `own_bytes`: of the shard that `out` will be. `planned`: bytes of every shard by file name,
    empty if there is no plan yet; then only the own shard is known to come.
    """
    folder = out.parent
    folder.mkdir(parents=True, exist_ok=True)
    sizes = {**planned, out.name: own_bytes}
    coming = [size for name, size in sizes.items() if not (folder / name).exists()]
    # what other jobs are writing is used already, and their shards are still counted as coming
    written = sum(_size(path) for path in folder.glob(".*.tmp"))
    sentence = shortage(coming, shutil.disk_usage(folder).free + written, "are free")
    if sentence is None and budget_gb is not None:
        present = sum(_size(path) for path in folder.glob("*.safetensors"))
        left = int(budget_gb * GB) - present
        limit = f"are left of resources.disk_budget_gb {budget_gb:g}"
        sentence = shortage(coming, left, limit)
    if sentence is not None:
        raise UserError(sentence)


def _gb(size: int) -> str:
    return f"{max(size, 0) / GB:,.3f} GB" if size > GB // 10 else f"{max(size, 0) / GB:.3g} GB"


def _size(path: Path) -> int:
    """Bytes of a file that may vanish at any time."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
