"""A safetensors file written piece by piece, in any order, without holding it in memory.

Types and shapes are declared first, so every row has its place in the file at once. One tensor of
bytes may come last and grow. The header is written when everything else is.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from eagle3.artifact import MANIFEST_KEY, REMAKE, Manifest, canonical
from eagle3.errors import UserError

SLACK = 4096  # bytes left for figures that the manifest does not have yet
ALIGNMENT = 64


@dataclass(frozen=True)
class Declared:
    """One tensor: its safetensors type name, its shape and the bytes of one entry."""

    kind: str
    shape: tuple[int, ...]
    itemsize: int

    @property
    def row_bytes(self) -> int:
        width = self.itemsize
        for size in self.shape[1:]:
            width *= size
        return width

    @property
    def nbytes(self) -> int:
        return self.shape[0] * self.row_bytes


class TensorStream:
    """Writes one file, which is no safetensors file before `finish`."""

    def __init__(
        self,
        path: Path,
        declared: Mapping[str, Declared],
        manifest: Manifest,
        growing: str | None = None,
    ) -> None:
        """`growing`: name of a tensor of bytes that `append` makes longer."""
        # wide types first: every tensor then starts at a multiple of its item size
        names = sorted(declared, key=lambda name: (-declared[name].itemsize, name))
        self._declared = {name: declared[name] for name in names}
        self._growing, self._grown = growing, 0
        room = len(self._header(manifest, 2**62)) + SLACK
        self._begin = -(-(8 + room) // ALIGNMENT) * ALIGNMENT
        self._places, place = {}, self._begin
        for name, tensor in self._declared.items():
            self._places[name] = place
            place += tensor.nbytes
        self._end = place
        self._file: int | None = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)

    def write(self, name: str, row: int, data: memoryview) -> None:
        """Write rows of a tensor from number `row` on. Raises OSError, as on a full disk."""
        self._write(data, self._places[name] + row * self._declared[name].row_bytes)

    def append(self, data: bytes | memoryview) -> int:
        """Add to the growing tensor; return where in it the data begins."""
        start = self._grown
        self._write(memoryview(data), self._end + start)
        self._grown += len(data)
        return start

    def finish(self, manifest: Manifest) -> None:
        """Write the header; nothing can be written afterwards."""
        header = self._header(manifest, self._grown).encode()
        room = self._begin - 8
        if len(header) > room:
            raise ValueError(f"a header of {len(header)} bytes does not fit into {room}")
        self._write(memoryview(room.to_bytes(8, "little") + header.ljust(room)), 0)
        os.ftruncate(self._open, self._end + self._grown)  # tensors without rows were never written
        self.close()

    def close(self) -> None:
        """Close the file; one that is not finished stays as it is."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    @property
    def _open(self) -> int:
        if self._file is None:
            raise ValueError("the file is closed")
        return self._file

    def _write(self, data: memoryview, place: int) -> None:
        while data:
            written = os.pwrite(self._open, data, place)
            data, place = data[written:], place + written

    def _header(self, manifest: Manifest, grown: int) -> str:
        entries: dict[str, Any] = {}
        place = 0
        tensors = dict(self._declared)
        if self._growing is not None:
            tensors[self._growing] = Declared("U8", (grown,), 1)
        for name, tensor in tensors.items():
            ends = [place, place + tensor.nbytes]
            entries[name] = {"dtype": tensor.kind, "shape": tensor.shape, "data_offsets": ends}
            place = ends[1]
        # "format": transformers refuses a model file without it
        entries["__metadata__"] = {"format": "pt", MANIFEST_KEY: canonical(asdict(manifest))}
        return canonical(entries)


def places(path: Path) -> dict[str, tuple[Declared, int]]:
    """Where each tensor of a safetensors file lies: its form and its first byte.

    The file has been opened by the safetensors library before, which checks all of it. Raises
    UserError if it has changed since.
    """
    with open(path, "rb") as handle:
        size = int.from_bytes(handle.read(8), "little")
        try:
            header = json.loads(handle.read(size))
            header.pop("__metadata__", None)
            found = {}
            for name, entry in header.items():
                shape = tuple(entry["shape"])
                first, last = entry["data_offsets"]
                count = 1
                for length in shape:
                    count *= length
                item = (last - first) // count if count else 1
                found[name] = (Declared(entry["dtype"], shape, item), 8 + size + first)
        except (ValueError, KeyError, TypeError, AttributeError) as fault:
            raise UserError(f"{path}: has no safetensors header ({fault}): {REMAKE}") from None
    return found
