"""Where rows come from: a local file, or a Hugging Face dataset."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eagle3.errors import UserError

HUB = "hub:"


@dataclass(frozen=True)
class Unreadable:
    """A line that is not JSON; it takes part in the counts of bad rows."""

    cause: str


def read_rows(source: str, subset: str | None, split: str, revision: str | None) -> Iterator[Any]:
    """Every row of `source` in its own order; unreadable lines come as `Unreadable`.

    Raises UserError if the source is missing or of an unknown kind.
    """
    if source.startswith(HUB):
        return _hub_rows(source.removeprefix(HUB), subset, split, revision)
    path = Path(source)
    if not path.is_file():
        raise UserError(
            f"dataset.source: {source} does not exist; give a file or hub:<owner>/<name>"
        )
    match path.suffix:
        case ".jsonl" | ".ndjson":
            return _jsonl_rows(path)
        case ".json":
            return _json_rows(path)
    raise UserError(f"dataset.source: {source} is neither .json nor .jsonl")


def _jsonl_rows(path: Path) -> Iterator[Any]:
    with open(path, "rb") as handle:
        for line in handle:
            if line.strip():
                yield _decoded(line)


def _decoded(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return Unreadable("line is not JSON")


def _json_rows(path: Path) -> Iterator[Any]:
    try:
        rows = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as fault:
        raise UserError(f"dataset.source: {path} is not JSON ({fault})") from None
    if not isinstance(rows, list):
        raise UserError(f"dataset.source: {path} does not hold a list of rows")
    yield from rows


def _hub_rows(name: str, subset: str | None, split: str, revision: str | None) -> Iterator[Any]:
    import datasets

    try:
        loaded = datasets.load_dataset(name, subset, split=split, revision=revision)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as fault:
        why = (str(fault).splitlines() or [type(fault).__name__])[0]
        raise UserError(
            f"dataset.source: cannot load {HUB}{name} (subset {subset}, split {split}, revision "
            f"{revision}): {why}"
        ) from None
    yield from loaded
