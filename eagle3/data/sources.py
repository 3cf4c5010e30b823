"""Where rows come from: local files, Hugging Face datasets, and datasets known by name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eagle3.data.catalogue import CATALOGUE
from eagle3.data.conversations import BadRow
from eagle3.data.converters import CONVERTERS
from eagle3.data.row_files import Unreadable, rows_of
from eagle3.data.tool_calls import without_nulls
from eagle3.errors import Foreign, UserError
from eagle3.files.hub import HUB

ALL = "all"  # every subset
COMMIT = re.compile("[0-9a-f]{40}")  # form of the builder hash of a hub dataset


@dataclass(frozen=True)
class Source:
    """One dataset of a configuration."""

    place: str  # a file, a folder, hub:<owner>/<name>, or a name of the catalogue
    subset: str | None = None
    split: str | None = None  # null: `train`, or the catalogue's
    revision: str | None = None  # null: the catalogue's, or the hub's current one
    weight: float = 1.0  # share of the rows among those of other sources
    label: str | None = None  # its name in the configuration

    @property
    def name(self) -> str:
        """Prefix of its rows' ids where there are several sources."""
        if self.label or self.place in CATALOGUE:
            return self.label or self.place
        path = Path(self.place.removeprefix(HUB))
        return path.name if self.on_hub else path.stem

    @property
    def on_hub(self) -> bool:
        return self.place in CATALOGUE or self.place.startswith(HUB)

    @property
    def wanted_revision(self) -> str | None:
        """None: the hub's current one."""
        entry = CATALOGUE.get(self.place)
        return self.revision or (entry.revision if entry else None)

    @property
    def identity(self) -> str:
        """The place, with the catalogue's commit unless the configuration names a revision."""
        pinned = self.wanted_revision if self.revision is None else None
        return f"{self.place}@{pinned}" if pinned else self.place


def sources_of(section: Mapping[str, Any]) -> list[Source]:
    """The sources of the configuration's `dataset` section; those of a list may have their own
    subset, split and revision.

    Raises UserError for two with the same name.
    """
    common = {name: section[name] for name in ("subset", "split", "revision")}
    entries = section["source"]
    if isinstance(entries, str):
        return [Source(entries, **common)]
    sections = [{"source": entry} if isinstance(entry, str) else dict(entry) for entry in entries]
    sources = [
        Source(entry.pop("source"), label=entry.pop("name", None), **{**common, **entry})
        for entry in sections
    ]
    names = [source.name for source in sources]
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise UserError(
            f"config: dataset.source has two sources called {repeated!r}, so their rows could not "
            "be distinguished: give one of them another `name`"
        )
    return sources


def read_rows(source: Source, commits: set[str] | None = None) -> Iterator[Any]:
    """Every row of `source` in order; `Unreadable` for one that cannot be parsed.

    The commits of hub datasets are added to `commits`. Raises UserError if the source is missing or
    of an unknown kind.
    """
    commits = set() if commits is None else commits
    if source.place in CATALOGUE:
        return _catalogue_rows(source, commits)
    split = source.split or "train"
    if source.place.startswith(HUB):
        name = source.place.removeprefix(HUB)
        return _hub_rows(name, source.subset, split, source.wanted_revision, commits)
    path = Path(source.place)
    if not path.exists():
        raise UserError(f"dataset.source: {unknown_place(source.place)}")
    return rows_of(path)


def unknown_place(place: str) -> str:
    """The error text for a place that is neither a file nor a known name."""
    close = difflib.get_close_matches(place, CATALOGUE, n=1, cutoff=0.7)
    hint = f"; did you mean {close[0]}?" if close else ""
    return (
        f"{place} does not exist; give a file, a folder, hub:<owner>/<name>, or a name of "
        "docs/datasets.md"
        f"{hint}"
    )


def _catalogue_rows(source: Source, commits: set[str]) -> Iterator[Any]:
    entry = CATALOGUE[source.place]
    subsets: Sequence[str | None] = (
        [source.subset] if source.subset else entry.subsets[:1] or [None]
    )
    if source.subset == ALL or (source.subset is None and entry.all_subsets):
        subsets = entry.subsets
    for subset in subsets:
        if entry.subsets and subset not in entry.subsets:
            raise UserError(
                f"dataset.subset: {source.place} has no {subset!r}; it has "
                f"{', '.join(entry.subsets)}, and {ALL}"
            )
        split = source.split or entry.split
        rows = _hub_rows(entry.repository, subset, split, source.wanted_revision, commits)
        yield from converted(rows, entry.converter)


def converted(rows: Iterator[Any], converter: str) -> Iterator[Any]:
    """Rows in the shape that `parse_row` understands."""
    convert = CONVERTERS[converter]
    for row in rows:
        if not isinstance(row, Mapping):
            yield row
            continue
        try:
            yield convert(row)
        except BadRow as fault:
            yield Unreadable(str(fault))


def _hub_rows(
    name: str, subset: str | None, split: str, revision: str | None, commits: set[str]
) -> Iterator[Any]:
    import datasets

    request = f"(subset {subset}, split {split}, revision {revision})"
    with Foreign(f"dataset.source: cannot load {HUB}{name} {request}"):
        builder = datasets.load_dataset_builder(name, subset, revision=revision)
        builder.download_and_prepare()
        loaded = builder.as_dataset(split)
    if builder.hash and COMMIT.fullmatch(builder.hash):
        commits.add(builder.hash)
    yield from map(without_nulls, loaded)  # Arrow adds nulls


def located(source: Source, path: Path) -> Source:
    """The source, placed at the path where its file was found."""
    return replace(source, place=str(path))
