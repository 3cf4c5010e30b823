"""The location of the workflow: the checkout that contains this package, or the copy in its wheel
(made by `setup.py`)."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]  # folder of the library
SHIPPED = PACKAGE / "project"


def project_root() -> Path:
    """The folder of the Snakefile: the checkout if the package is part of one."""
    checkout = PACKAGE.parent
    return checkout if (checkout / "rules" / "common.smk").is_file() else SHIPPED


def same_text(path: Path | str, folder: Path) -> bool:
    """Whether a file has the same text as the file of that name in `folder`."""
    texts = (file.read_text(encoding="utf-8") for file in (Path(path), folder / Path(path).name))
    return (
        len({text.strip() for text in texts}) == 1
    )  # Snakemake strips files that it reads from git


def package_of(root: Path) -> Path:
    """Folder of the library that the jobs of the project in `root` import."""
    checkout = root / "eagle3"
    return checkout if checkout.is_dir() else PACKAGE


def import_folders(root: Path, folder: Path) -> list[str]:
    """Folders for PYTHONPATH from which a job imports the scripts in `root` and the library.

    An installed library is next to other packages, which a job in a separate environment must not
    import: `folder` gets a link to the library alone.
    """
    package = package_of(root)
    if package.parent == root:
        return [str(root)]
    link = folder.absolute() / package.name
    if not link.is_dir() or link.resolve() != package:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = link.with_name(f"{link.name}.{os.getpid()}")
        with suppress(FileNotFoundError):
            temporary.unlink()
        temporary.symlink_to(package)
        temporary.replace(link)
    return [str(root), str(link.parent)]
