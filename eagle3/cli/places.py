"""Which runs there are, and which one a word means."""

from __future__ import annotations

from pathlib import Path

from eagle3.errors import UserError

RESULTS = Path("results")


def run_folders() -> list[Path]:
    """Folders of the runs in the working directory, by name."""
    return sorted(path.parent for path in RESULTS.glob("*/run.json"))


def run_folder(word: str) -> Path:
    """The folder of a run given by its name or its folder. Raises UserError if there is none."""
    for folder in (RESULTS / word, Path(word)):
        if (folder / "run.json").is_file():
            return folder
    there = ", ".join(folder.name for folder in run_folders())
    raise UserError(
        f"there is no run {word!r} here; give a name or a folder such as results/demo"
        + (f" (runs here: {there})" if there else "; runs lie in results/ of the working directory")
    )


def newest_run() -> Path:
    """The run that was planned last. Raises UserError without one."""
    folders = run_folders()
    if not folders:
        raise UserError(
            "there is no run here: runs lie in results/ of the working directory; "
            "`eagle3 train` makes one"
        )
    return max(folders, key=lambda folder: (folder / "run.json").stat().st_mtime)
