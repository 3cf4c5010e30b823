"""What belongs to one run only, and its removal.

A run consists of its folder under results/, its objects in object storage, the files from which
jobs read it, and Snakemake's records of its outputs. Digests of large files, environments, the
cache between workflows and a cluster's logs belong to all runs of a working directory and stay.
"""

from __future__ import annotations

import binascii
import re
import shutil
from base64 import urlsafe_b64decode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from eagle3.errors import UserError
from eagle3.run import Run, load_run

SNAKEMAKE = Path(".snakemake")
PLANNED = SNAKEMAKE / "eagle3"
RECORDS = ("metadata", "incomplete")  # folders with one file per output, named after its path


@dataclass(frozen=True)
class Belongings:
    """Everything that belongs to a run."""

    folder: Path
    size: int  # bytes in the folder; links are not followed
    planned: Sequence[Path]
    records: Sequence[Path]
    copies: Sequence[Path]  # of objects
    objects: str | None  # address of the folder that holds its objects

    def remove(self) -> None:
        """Remove all of it. run.json goes last, so an interrupted removal can be repeated.

        Raises UserError if object storage does not answer.
        """
        if self.objects:
            from eagle3.files.object_storage import remove_all

            remove_all(self.objects)
        for path in (*self.copies, *(p for p in self.folder.iterdir() if p.name != "run.json")):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        for path in (*self.records, *self.planned):
            path.unlink(missing_ok=True)
        shutil.rmtree(self.folder)


def belongings(folder: Path) -> Belongings:
    """Everything that belongs to the run in a folder of results/ in the working directory.

    Raises UserError if the folder is a link or is somewhere else.
    """
    run = load_run(folder / "run.json")
    out = Path(run.paths.out)
    if folder.is_symlink() or not out.is_dir() or not out.samefile(folder):
        raise UserError(f"{folder} is not {out} of this working directory; remove it by hand")
    pattern = re.escape(run.config.run) + r"-[0-9a-f]+\.json"
    planned = [path for path in PLANNED.glob("*.json") if re.fullmatch(pattern, path.name)]
    prefix = run.config.resources.storage_prefix
    copies = SNAKEMAKE / "storage" / (prefix or "").replace("://", "/") / out
    files = (p for p in out.rglob("*") if p.is_file() and not p.is_symlink())
    return Belongings(
        out,
        sum(path.stat().st_size for path in files),
        planned,
        [path for kind in RECORDS for path in _records(SNAKEMAKE / kind, f"{out}/", prefix)],
        [copies] if prefix and copies.is_dir() else [],
        run.stored(str(out)) if prefix else None,
    )


def _records(folder: Path, start: str, prefix: str | None) -> Iterator[Path]:
    """Snakemake's records of outputs whose path or address begins with `start`."""
    starts = (start, f"{prefix}/{start}") if prefix else (start,)
    for path in folder.rglob("*") if folder.is_dir() else ():
        if path.is_file():
            # base64 of the output's path; a long one is split into folders that begin with @
            parts = [part.removeprefix("@") for part in path.relative_to(folder).parts]
            try:
                output = urlsafe_b64decode("".join(parts)).decode()
            except (binascii.Error, UnicodeDecodeError):
                continue  # not a record
            if output.startswith(starts):
                yield path


def users(folder: Path, others: Sequence[Path]) -> list[str]:
    """Names of the other runs that read files of the run in `folder`. A run of another version,
    which cannot be loaded, is included if the text of its run.json contains the folder."""
    resolved = folder.resolve()
    readers = []
    for candidate in others:
        try:
            places = [Path(place).resolve() for place in _outside(load_run(candidate))]
            reads = any(place.is_relative_to(resolved) for place in places)
        except UserError:
            text = (candidate / "run.json").read_text(encoding="utf-8", errors="replace")
            reads = f"{folder.parent.name}/{resolved.name}/" in text
        if reads and candidate.resolve() != resolved:
            readers.append(candidate.name)
    return readers


def _outside(run: Run) -> Iterator[str]:
    """Paths outside the run that it reads."""
    external = run.external
    yield from (source.place for source in external.sources if not source.on_hub)
    yield from (place for _, place in external.prompts)
    states = (external.states.place, external.states.dataset) if external.states else ()
    drafts = external.adapter, external.warm_start, run.config.draft.config
    paths = (external.target, *drafts, external.embedded_source, *states)
    yield from (place for place in paths if place and not place.startswith("hub:"))
