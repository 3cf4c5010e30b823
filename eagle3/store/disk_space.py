"""Whether hidden states fit on the disk: the plan asks, and each capture before it writes."""

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
ALIKE = 0.25  # a file this near to its planned size holds these states; compression is a guess


@dataclass(frozen=True)
class Need:
    """The hidden states of a run, as far as they are known."""

    shards: Mapping[str, int]  # bytes of every training shard by file name, in order
    stages: Stages
    rolling: bool
    held_out: Mapping[str, int] = field(default_factory=dict)  # the same of shards that stay

    @property
    def peak(self) -> int:
        """Most bytes on the disk at once."""
        sizes = list(self.shards.values())
        return peak_of_windows(sizes, self.stages) if self.rolling else sum(sizes)

    def remedy(self, coming: list[int], available: int, there: int) -> str:
        """What would fit into `available` bytes and the `there` that windows would not keep."""
        smaller = "use a smaller hidden_states.codec or another disk"
        if not self.shards:
            return smaller
        window = largest_window(list(self.shards.values()), self.stages, available + there)
        none = "not even two shards fit at once, so lower dataset.shard_size"
        if self.rolling:
            lower = f"lower hidden_states.window_shards to {window}" if window else none
            return f"{lower}, or {smaller}"
        fitting = sum(reached <= available for reached in accumulate(coming))
        largest = f"the largest window_shards is {window}" if window else none
        return (
            f"{fitting} of the {len(coming)} shards still to come fit, so lower "
            f"dataset.num_samples, or {smaller}; for rolling mode {largest}"
        )


@dataclass(frozen=True)
class Room:
    """What a folder of hidden states holds of a run, and what it has room for."""

    coming: list[int]  # bytes of the shards that are not there yet, in order
    free: int  # bytes that they may take: of the disk, and of what they replace
    present: int  # bytes of shards that are there

    @classmethod
    def of(cls, folder: Path, planned: Mapping[str, int]) -> Room:
        """`planned`: bytes of every shard that the folder will hold, by file name.

        A file of another size was captured under other settings and will be replaced. What other
        jobs are writing counts as coming, and the blocks it has taken already as free.
        """
        sizes, taken = _listing(folder)
        coming, replaced, present = [], 0, 0
        for name, size in planned.items():
            there = sizes.get(name)
            if there is not None and abs(there - size) <= ALIKE * size + 2**16:
                present += there
                continue
            coming.append(size)
            replaced += (there or 0) + taken.get(name, 0)
        return cls(coming, free_bytes(folder) + replaced, present)


def plan_shortage(need: Need, folder: Path, budget_gb: float | None, reserved: int) -> str | None:
    """One sentence if a run does not fit on the disk, `reserved` bytes of it kept for checkpoints,
    or into the budget of all hidden states. `folder` holds those of the training split."""
    if not need.rolling:
        room, subject = Room.of(folder, need.shards), "hidden states"
    else:  # windows that lie there already will go, or are one of the two
        room = Room([need.peak], free_bytes(folder) + bytes_beside(folder), 0)
        subject = "two windows of hidden states"
    return _shortage(need, subject, room, folder, budget_gb, reserved)


def check_space(
    need: Need, out: Path, own_bytes: int, stage: int | None, budget_gb: float | None
) -> None:
    """Raise UserError if the shards still to come into a folder do not fit.

    `out`: the shard that a job is about to write, `own_bytes` of them; `stage`: whose window it
    belongs to, in rolling mode. `need.shards` is empty if there is no plan yet; then only the own
    shard is known to come.
    """
    names = list(need.shards)
    if stage is not None and names:
        window = need.stages.shards_of(stage)
        names = names[window.start : window.stop]
    room = Room.of(out.parent, {**{n: need.shards[n] for n in names}, out.name: own_bytes})
    folder = out.parent if stage is None else out.parent.parent
    beside = bytes_beside(folder, stage) if stage is not None else 0
    room = Room(room.coming, room.free, room.present + beside)
    sentence = _shortage(need, "hidden states", room, folder, budget_gb, 0)
    if sentence is not None:
        raise UserError(sentence)


def _shortage(
    need: Need, subject: str, room: Room, folder: Path, budget_gb: float | None, reserved: int
) -> str | None:
    """A sentence about the first bound that does not hold, and a remedy; None if all hold."""
    held_out = folder.parent / "eval"
    to_come = sum(n for name, n in need.held_out.items() if not (held_out / name).exists())
    others = {"checkpoints": reserved, "held-out states": to_come}
    beside = " and ".join(name for name, size in others.items() if size)
    bounds = [(room.free - sum(others.values()), "are free" + f" after {beside}" * bool(beside))]
    if budget_gb is not None:
        left = int(budget_gb * GB) - room.present - sum(need.held_out.values())
        bounds.append((left, f"are left of resources.disk_budget_gb {budget_gb:g}"))
    for available, limit in bounds:
        if sum(room.coming) > available:
            what = f"{subject} need {_gb(sum(room.coming))} but {_gb(available)} {limit}"
            return f"{what}: {need.remedy(room.coming, available, room.present)}"
    return None


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
    """Bytes of every shard by file name, of training and held out, if `plan` is there and of the
    very capture that has these settings; else nothing."""
    unknown: tuple[dict[str, int], dict[str, int]] = {}, {}
    try:
        figures, manifest = read_json(plan, PLAN)
    except UserError:
        return unknown
    planned = Settings(**manifest.settings)
    states, own = planned.values["hidden_states"], settings.values["hidden_states"]
    same = planned.upstream["tokens"] == settings.upstream["tokens"]
    if not same or any(states.get(key) != value for key, value in own.items()):
        return unknown
    sizes: dict[str, int] = figures["bytes_of_shards"]
    if len(sizes) < shards:
        return unknown
    # the plan may be of another num_samples
    return dict(list(sizes.items())[:shards]), figures.get("bytes_of_held_out", {})
