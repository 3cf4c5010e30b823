"""The runs of the working directory, and the one that an argument selects."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from eagle3.errors import UserError

if TYPE_CHECKING:
    from eagle3.run import Run

RESULTS = Path("results")


def run_folders() -> list[Path]:
    """Folders of the runs in the working directory, sorted by name."""
    return sorted(path.parent for path in RESULTS.glob("*/run.json"))


def run_folder(place: str) -> Path:
    """The folder of a run, given its name or its folder. Raises UserError if there is none."""
    for folder in (RESULTS / place, Path(place)):
        if (folder / "run.json").is_file():
            return folder
    names = ", ".join(folder.name for folder in run_folders())
    raise UserError(
        f"there is no run {place!r} here; give a name, or a folder such as results/demo"
        + (f" (runs here: {names})" if names else "; runs are in results/ of the working directory")
    )


def base_of(folder: Path) -> Path:
    """The working directory of a run's folder, to which the run's paths are relative.

    Raises UserError if the folder is not in one called results.
    """
    absolute = folder.resolve() if ".." in folder.parts else folder.absolute()
    if absolute.parent.name != RESULTS.name:
        raise UserError(
            f"{folder} is not in a folder called {RESULTS}, from which the paths of a run count: "
            f"move it to {RESULTS}/{absolute.name} of any folder"
        )
    return absolute.parents[1]


def target_of(run: Run, base: Path) -> str:
    """Where a run's target is; a path may be relative to the run's working directory."""
    inside = base / run.target
    return str(inside) if inside.is_dir() else run.target


def newest_run() -> Path:
    """The run that was planned last. Raises UserError if there is none."""
    folders = run_folders()
    if not folders:
        raise UserError(
            "there is no run here: runs are in results/ of the working directory; "
            "`eagle3 train -c FILE` starts one"
        )
    return max(folders, key=lambda folder: (folder / "run.json").stat().st_mtime)
