"""Container images: the image of a rule, its location, and the host paths that it sees.

Plain Python without packages, for the rules and for envs/build_image.sh alike; the latter calls
`python -m eagle3.workflow.containers eagle3` for a path.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

from eagle3.errors import UserError

ADDRESS = re.compile(r"(?!file:)[a-z]+://")
PINNED = re.compile(r"@sha256:[0-9a-f]{64}$")
HUB_FOLDERS = ("HF_HOME", "HF_HUB_CACHE", "HF_DATASETS_CACHE")  # of huggingface_hub, datasets


def definition_files(definition: Path) -> list[Path]:
    """The definition and the files of its folder that it copies into the image.

    Files named by a build argument (the wheels of the listed versions) are left out. Raises
    UserError naming a missing file.
    """
    files, section = [definition], ""
    for line in definition.read_text(encoding="utf-8").splitlines():
        if line.startswith("%"):
            section = line.strip()
        elif section == "%files" and line.strip() and not line.strip().startswith(("#", "{{")):
            files.append(definition.parent / line.split()[0])
    for path in files:
        if not path.is_file():
            raise UserError(f"{definition} copies {path}, which does not exist")
    return files


def own_image(name: str, root: Path) -> Path:
    """Path of the image of envs/<name>.def; it carries the digest of `definition_files`."""
    hasher = hashlib.sha256()
    for path in definition_files(root / "envs" / f"{name}.def"):
        hasher.update(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return root / "envs" / "images" / f"{name}-{hasher.hexdigest()[:12]}.sif"


def image(name: str, entry: str | None, root: Path) -> str:
    """The value of `container:` for the image `name`: `entry` of the configuration, or our own.

    Snakemake records the text. A path below the working directory is relative, so that a project
    moved with its results re-runs nothing. Raises UserError for an address without a digest.
    """
    if entry is not None and ADDRESS.match(entry):
        if not PINNED.search(entry):
            raise UserError(
                f"config: resources.containers.{name} is {entry!r}, which may be another image "
                "tomorrow; add its digest (@sha256:…) or give the path of an image file"
            )
        return entry
    path = Path(entry).expanduser().absolute() if entry else own_image(name, root)
    cwd = Path.cwd()
    return str(path.relative_to(cwd) if path.is_relative_to(cwd) else path)


def check_there(name: str, path: str, own: bool) -> None:
    """Raise UserError if the image file is missing. Snakemake fetches addresses. `own`: whether the
    project defines the image."""
    if ADDRESS.match(path) or Path(path).exists():
        return
    if own:
        target = "image" if name == "eagle3" else f"image-{name}"
        raise UserError(f"{path} is missing: build it with `make {target}` (docs/containers.md)")
    raise UserError(f"config: resources.containers.{name} is {path!r}, which does not exist")


def visible(paths: Iterable[str | Path]) -> list[str]:
    """Folders and files outside the working directory that must be bound into a container.

    The working directory is always visible. Targets of links are included, also those of links in
    a folder and its subfolders: a model in the hub's cache consists of links, and so do a dataset's
    `data/*.parquet` and additional chat templates there.
    """
    cwd, mounted = Path.cwd(), set()
    for path in map(Path, paths):
        if not path.exists():
            continue
        inside = (*path.glob("*"), *path.glob("*/*"))
        targets = {link.resolve() for link in inside if link.is_symlink() and link.exists()}
        mounted |= {path.absolute(), path.resolve(), *targets}
    outside = [path for path in sorted(mounted) if not path.is_relative_to(cwd)]
    outside = [path for path in outside if mounted.isdisjoint(path.parents)]
    for path in outside:
        if set(":,") & set(str(path)):
            raise UserError(f"{path}: Apptainer cannot bind a path with a colon or comma")
    return [str(path) for path in outside]


def environment(paths: Iterable[str | Path], hub: bool, cuda: bool) -> dict[str, str]:
    """Variables that make Apptainer bind `paths` and the GPUs into every container.

    `hub`: files of the Hugging Face hub are read. Their cache is in the home directory, which in a
    container is the working directory. A nested call is safe.
    """
    program = "APPTAINER" if shutil.which("apptainer") else "SINGULARITY"
    variables: dict[str, str] = {}
    folders: list[str] = []
    if hub:
        # as huggingface_hub reads them here: a container has another home
        cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
        places = {"HF_HOME": str(Path(cache, "huggingface"))}
        places |= {key: os.environ[key] for key in HUB_FOLDERS if os.environ.get(key)}
        for key, place in places.items():
            variables[key] = str(Path(os.path.expandvars(place)).expanduser())
        Path(variables["HF_HOME"]).mkdir(parents=True, exist_ok=True)
        folders = list(variables.values())
    old = [bind for bind in os.environ.get(f"{program}_BIND", "").split(",") if bind]
    new = [path for path in visible([*paths, *folders]) if path not in old]
    variables[f"{program}_BIND"] = ",".join([*old, *new])
    if cuda:
        variables[f"{program}_NV"] = "1"
    return variables


if __name__ == "__main__":
    print(own_image(sys.argv[1], Path(__file__).resolve().parents[2]))
