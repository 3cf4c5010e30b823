"""The origin of a run's results: date, machine, dataset and code.

Nothing here shapes a result, so none of it is a setting: another machine or date re-runs nothing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import eagle3
from eagle3.data.catalogue import CATALOGUE
from eagle3.data.sources import Source
from eagle3.files.hub import HUB
from eagle3.report.plan import size_text

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Origin:
    """The origin of a run, as the report shows it."""

    date: str
    code: str
    datasets: tuple[str, ...]  # names: of the hub, else of files without their folders
    rows_digest: str  # SHA-256 of all valid rows, in hex
    trained_on: str
    measured_on: str
    versions: Mapping[str, str]  # of the software that measured the draft


def date_of_report() -> str:
    """The present date, or that of SOURCE_DATE_EPOCH (reproducible-builds.org)."""
    fixed = os.environ.get("SOURCE_DATE_EPOCH", "")
    date = datetime.fromtimestamp(int(fixed), UTC) if fixed.isdigit() else datetime.now(UTC)
    return f"{date:%Y-%m-%d %H:%M} UTC"


def code_version(root: Path = ROOT) -> str:
    """The commit of the project in `root` and whether files differ from it, else its version.

    A repository that only contains the project, such as one of a home directory, does not count.
    """
    lines = (_git(root, "rev-parse", "--show-toplevel", "HEAD") or "").splitlines()
    if len(lines) != 2 or Path(lines[0]).resolve() != root.resolve():
        return f"version {eagle3.__version__}"
    modified = _git(root, "status", "--porcelain", "--untracked-files=no")
    return f"commit {lines[1][:12]}" + (" with local changes" if modified else "")


def _git(root: Path, *arguments: str) -> str | None:
    """The output of git; None if it is missing or fails."""
    program = shutil.which("git")
    if program is None:
        return None
    try:
        result = subprocess.run(  # noqa: S603 - found in PATH
            [program, "-C", str(root), *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
            env=os.environ | {"GIT_OPTIONAL_LOCKS": "0"},  # a report writes nothing there
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()


def dataset_names(sources: Sequence[Source]) -> tuple[str, ...]:
    """Names of sources on the hub, and of files without their folders and endings."""
    return tuple(hub_dataset(source) or source.name for source in sources)


def hub_dataset(source: Source) -> str | None:
    """`owner/name` of a source on the hub."""
    if source.place in CATALOGUE:
        return CATALOGUE[source.place].repository
    return source.place.removeprefix(HUB) if source.on_hub else None


def machine_text(machine: Mapping[str, Any]) -> str:
    """The result of `eagle3.parallel.device.machine`, for people."""
    gpus: list[str] = machine["gpus"]
    parts = [f"{gpus.count(name)} x {name}" for name in dict.fromkeys(gpus)]
    parts += [machine["processor"], f"{machine['cores']} cores", size_text(machine["memory_bytes"])]
    return ", ".join(parts)


def devices_text(ranks_and_devices: Iterable[tuple[int, str]], device: str) -> str:
    """Ranks and devices of training in the order of first use: a stage may continue elsewhere. Each
    rank has its own GPU where `device` is cuda."""
    separator = "x" if device == "cuda" else "processes on"
    return ", then ".join(
        name if ranks == 1 else f"{ranks} {separator} {name}"
        for ranks, name in dict.fromkeys(ranks_and_devices)
    )
