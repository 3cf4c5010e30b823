"""Rows of local files: JSON, JSON lines (plain, gzip, Zstandard), Parquet, folders of them."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eagle3.data.tool_calls import without_nulls
from eagle3.errors import Foreign, UserError

LINES = (".jsonl", ".ndjson")
PACKED = (".gz", ".zst")  # after one of LINES
SUFFIXES = (".json", *LINES, ".parquet", *PACKED)
LONGEST_LINE = 2**28  # bytes; a line without an end would fill the memory


@dataclass(frozen=True)
class Unreadable:
    """A row that cannot be parsed, or not in the shape of its dataset; counted as a bad row."""

    cause: str


def files_of(place: Path) -> list[Path]:
    """The files to read for a path: the file itself, or all files below a folder.

    Raises UserError if none has a known suffix.
    """
    if place.is_dir():
        files = (path for path in sorted(place.rglob("*")) if path.is_file())
        paths = [p for p in files if _format(p) and not _hidden(p.relative_to(place))]
        if not paths:
            raise UserError(
                f"dataset.source: the folder {place} has no file of {', '.join(SUFFIXES)}"
            )
        return paths
    if not _format(place):
        raise UserError(
            f"dataset.source: {place} is none of {', '.join(SUFFIXES[:-2])}, "
            f"{', '.join(LINES[0] + packed for packed in PACKED)}"
        )
    return [place]


def _hidden(path: Path) -> bool:
    """Whether the file or a folder above it is hidden."""
    return any(part.startswith(".") for part in path.parts)


def readable(path: Path) -> bool:
    """Whether a file has a known suffix."""
    return bool(_format(path))


def rows_of(place: Path) -> Iterator[Any]:
    """Every row of a file or folder in order; `Unreadable` for one that cannot be parsed.

    Raises UserError for a file that cannot be read.
    """
    files = files_of(place)
    return (row for path in files for row in _READERS[_format(path)](path))


def _format(path: Path) -> str:
    """The file's suffix in lower case, empty if it is unknown."""
    *_, before, last = ("", "", *(suffix.lower() for suffix in path.suffixes))
    if last in PACKED:
        return before + last if before in LINES else ""
    return last if last in SUFFIXES else ""


def _read_lines(path: Path) -> Iterator[Any]:
    with open(path, "rb") as handle:
        yield from _parse_lines(handle)


def _read_gzip_lines(path: Path) -> Iterator[Any]:
    with Foreign(f"dataset.source: cannot unpack {path}"), gzip.open(path, "rb") as handle:
        yield from _parse_lines(handle)


def _read_zstandard_lines(path: Path) -> Iterator[Any]:
    import pyarrow as pa  # whose reader, unlike zstandard's, notices a truncated file

    fault = Foreign(f"dataset.source: cannot unpack {path}")
    with fault, pa.input_stream(str(path), compression="zstd") as stream:
        yield from _parse_lines(io.BufferedReader(stream, 2**20))


def _parse_lines(handle: Any) -> Iterator[Any]:
    while line := handle.readline(LONGEST_LINE):
        if len(line) == LONGEST_LINE and not line.endswith(b"\n"):
            while line and not line.endswith(b"\n"):
                line = handle.readline(LONGEST_LINE)
            yield Unreadable(f"line is longer than {LONGEST_LINE >> 20} MiB")
        elif line.strip():
            yield _parse_line(line)


def _parse_line(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return Unreadable("line is not JSON")


def _read_json(path: Path) -> Iterator[Any]:
    try:
        rows = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as fault:
        raise UserError(f"dataset.source: {path} is not JSON ({fault})") from None
    if not isinstance(rows, list):
        raise UserError(f"dataset.source: {path} does not hold a list of rows")
    yield from rows


def _read_parquet(path: Path) -> Iterator[Any]:
    from pyarrow import parquet

    with (
        Foreign(f"dataset.source: {path} is no Parquet file"),
        parquet.ParquetFile(path) as file,
    ):
        for batch in file.iter_batches(batch_size=256):
            yield from map(without_nulls, batch.to_pylist())


_READERS = {
    ".json": _read_json,
    ".jsonl": _read_lines,
    ".ndjson": _read_lines,
    ".parquet": _read_parquet,
    **{name + ".gz": _read_gzip_lines for name in LINES},
    **{name + ".zst": _read_zstandard_lines for name in LINES},
}
