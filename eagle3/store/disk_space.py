"""Whether hidden states fit on the disk: checked by the plan, and by each capture beforehand."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path

from eagle3.errors import UserError
from eagle3.files.artifact import Settings, read_json
from eagle3.store.windows import bytes_beside, largest_window, peak_of_windows
from eagle3.tokens.stages import Stages

GB = 10**9
PLAN = "plan"  # kind of the file with the cost of a run
ALIKE = 0.25  # relative distance to the planned size within which a file is the planned one


@dataclass(frozen=True)
class Need:
    """The sizes of a run's hidden states, as far as they are known."""

    shards: Mapping[str, int]  # bytes of every training shard by file name, in order
    stages: Stages
    rolling: bool
    held_out: Mapping[str, int] = field(default_factory=dict)  # of shards that stay

    @property
    def peak(self) -> int:
        """Most bytes on the disk at once."""
        sizes = list(self.shards.values())
        return peak_of_windows(sizes, self.stages) if self.rolling else sum(sizes)

    def remedy(self, missing: list[int], available: int, present: int) -> str:
        """What would fit: as many of the `missing` shards as `available` bytes hold, or windows
        within these and the `present` bytes."""
        smaller = "use a smaller hidden_states.codec or another disk"
        if not self.shards:
            return smaller
        window = largest_window(list(self.shards.values()), self.stages, available + present)
        no_window = "not even two shards fit at once, so lower dataset.shard_size"
        if self.rolling:
            lower = f"lower hidden_states.window_shards to {window}" if window else no_window
            return f"{lower}, or {smaller}"
        fitting = sum(reached <= available for reached in accumulate(missing))
        largest = f"the largest window_shards is {window}" if window else no_window
        return (
            f"{fitting} of the {len(missing)} shards still to come fit, so lower "
            f"dataset.num_samples, or {smaller}; for rolling mode {largest}"
        )


@dataclass(frozen=True)
class Room:
    """What a folder of hidden states holds of a run, and what it has room for."""

    coming: list[int]  # bytes of the missing shards, in order
    free: int  # bytes that they may take: free on the disk, and of files they replace
    present: int  # bytes of the finished shards

    @classmethod
    def of(cls, folder: Path, planned: Mapping[str, int]) -> Room:
        """`planned`: bytes of every shard that the folder will hold, by file name.

        A file of another size was captured under other settings and will be replaced. Shards that
        other jobs are writing are among `coming`, and their allocated blocks are in `free`.
        """
        sizes, allocated = _listing(folder)
        coming, replaced, present = [], 0, 0
        for name, size in planned.items():
            found_size = sizes.get(name)
            if found_size is not None and abs(found_size - size) <= ALIKE * size + 2**16:
                present += found_size
                continue
            coming.append(size)
            replaced += (found_size or 0) + allocated.get(name, 0)
        return cls(coming, free_bytes(folder) + replaced, present)


def plan_shortage(need: Need, folder: Path, budget_gb: float | None, reserved: int) -> str | None:
    """One sentence if a run does not fit on the disk, with `reserved` bytes left for checkpoints,
    or into the budget of all hidden states. `folder` holds those of the training split."""
    if not need.rolling:
        room, subject = Room.of(folder, need.shards), "hidden states"
    else:  # windows on the disk will be removed, or are one of the two
        room = Room([need.peak], free_bytes(folder) + bytes_beside(folder), 0)
        subject = "two windows of hidden states"
    return _shortage(need, subject, room, folder, budget_gb, reserved)


def check_space(
    need: Need, out: Path, shard_bytes: int, stage: int | None, budget_gb: float | None
) -> None:
    """Raise UserError if the shards still to come into a folder do not fit.

    `out`: the shard that a job is about to write, of `shard_bytes`; `stage`: that of its window, in
    rolling mode. `need.shards` is empty if there is no plan yet; then only `out` is known to come.
    """
    names = list(need.shards)
    if stage is not None and names:
        window = need.stages.shards_of(stage)
        names = names[window.start : window.stop]
    room = Room.of(out.parent, {**{n: need.shards[n] for n in names}, out.name: shard_bytes})
    folder = out.parent if stage is None else out.parent.parent
    other_windows = bytes_beside(folder, stage) if stage is not None else 0
    room = Room(room.coming, room.free, room.present + other_windows)
    sentence = _shortage(need, "hidden states", room, folder, budget_gb, 0)
    if sentence is not None:
        raise UserError(sentence)


def _shortage(
    need: Need, subject: str, room: Room, folder: Path, budget_gb: float | None, reserved: int
) -> str | None:
    """A sentence on the first bound that is exceeded, with a remedy; None if all hold."""
    held_out = folder.parent / "eval"
    held_out_missing = sum(n for name, n in need.held_out.items() if not (held_out / name).exists())
    reserves = {"checkpoints": reserved, "held-out states": held_out_missing}
    names = " and ".join(name for name, size in reserves.items() if size)
    bounds = [(room.free - sum(reserves.values()), "are free" + f" after {names}" * bool(names))]
    if budget_gb is not None:
        remaining = int(budget_gb * GB) - room.present - sum(need.held_out.values())
        bounds.append((remaining, f"are left of resources.disk_budget_gb {budget_gb:g}"))
    for available, limit in bounds:
        if sum(room.coming) > available:
            what = f"{subject} need {_gb(sum(room.coming))} but {_gb(available)} {limit}"
            return f"{what}: {need.remedy(room.coming, available, room.present)}"
    return None


def _listing(folder: Path) -> tuple[dict[str, int], dict[str, int]]:
    """Bytes of finished files, and allocated bytes of unfinished ones, by their final names."""
    sizes: dict[str, int] = {}
    blocks: dict[str, int] = {}
    if folder.is_dir():
        for entry in os.scandir(folder):
            try:
                stat = entry.stat()
            except FileNotFoundError:
                continue  # another job has just renamed it
            if entry.name.endswith(".tmp"):
                name = entry.name[1:].rsplit(".", 2)[0]
                blocks[name] = blocks.get(name, 0) + stat.st_blocks * 512  # the files have holes
            else:
                sizes[entry.name] = stat.st_size
    return sizes, blocks


def free_bytes(folder: Path) -> int:
    """Bytes free on the disk where the folder is or will be."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _gb(size: int) -> str:
    return f"{max(size, 0) / GB:,.3f} GB" if size > GB // 10 else f"{max(size, 0) / GB:.3g} GB"


def planned_bytes(
    plan: Path, settings: Settings, shards: int
) -> tuple[dict[str, int], dict[str, int]]:
    """Bytes of every shard by file name, training and held out; empty unless `plan` exists and was
    made for a capture with these settings."""
    unknown: tuple[dict[str, int], dict[str, int]] = {}, {}
    try:
        figures, manifest = read_json(plan, PLAN)
    except UserError:
        return unknown
    planned = Settings(**manifest.settings)
    planned_states, states = planned.values["hidden_states"], settings.values["hidden_states"]
    same = planned.upstream["tokens"] == settings.upstream["tokens"]
    if not same or any(planned_states.get(key) != value for key, value in states.items()):
        return unknown
    sizes: dict[str, int] = figures["bytes_of_shards"]
    if len(sizes) < shards:
        return unknown
    # the plan may be for another num_samples
    return dict(list(sizes.items())[:shards]), figures.get("bytes_of_held_out", {})
