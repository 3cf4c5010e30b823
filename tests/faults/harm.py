"""Files that are damaged while nobody looks: dates stay, content does not."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

OUT = Path("results/small")
LAST = OUT / "checkpoints/stage-0002/model.safetensors"
DRAFT = OUT / "draft/sglang/model.safetensors"
CHOICE = OUT / "evaluation/best.json"
MEASURED = OUT / "evaluation/acceptance.json"
# files by the file that nobody needs them after
READ_UNTIL = {
    "tokens/train/*.safetensors": LAST,
    "tokens/eval/*.safetensors": CHOICE,
    "hidden_states/train/*.safetensors": LAST,
    "schedule.json": LAST,
    "checkpoints/stage-0001/*": OUT / "checkpoints/stage-0002/state.json",
    "vocab/mapping.safetensors": DRAFT,
    "checkpoints/stage-0002/*": CHOICE,
    "hidden_states/eval/*.safetensors": CHOICE,
    "evaluation/stage-*.json": CHOICE,
    "checkpoints/best/*": DRAFT,
    "draft/sglang/model.safetensors": MEASURED,
    "dataset/rows.index.safetensors": MEASURED,
    "resume/stage-*/step-*/*": LAST,
}


def candidates(folder: Path) -> list[Path]:
    """Finished files that something is still to read."""
    result = []
    for pattern, until in READ_UNTIL.items():
        if not (folder / until).exists():
            result += [path for path in (folder / OUT).glob(pattern) if path.is_file()]
    return sorted(result)


def with_its_dates(path: Path, change: Callable[[Path], None]) -> None:
    before = path.stat()
    change(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def truncate(path: Path, rng: random.Random) -> None:
    """A file that a crash has left short."""
    size = path.stat().st_size
    with_its_dates(path, lambda p: os.truncate(p, rng.randrange(size)))


def flip(path: Path, rng: random.Random) -> None:
    """One bit."""

    def change(p: Path) -> None:
        data = bytearray(p.read_bytes())
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        p.write_bytes(data)

    with_its_dates(path, change)


def replaced_by(path: Path, other: Path) -> None:
    """Another file in its place."""
    with_its_dates(path, lambda p: shutil.copyfile(other, p))
