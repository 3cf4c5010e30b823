"""A safetensors file written piece by piece, in any order, without holding it in memory.

Types and shapes are declared first, so the place of every row in the file is known from the start.
One tensor of bytes may come last and grow. The header is written last.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from eagle3.errors import UserError
from eagle3.files.artifact import MANIFEST_KEY, NOT_OURS, REMAKE, Manifest, canonical

SLACK = 4096  # bytes left for counts that the manifest does not have yet
ALIGNMENT = 64
FIRST_READ = 2**14  # bytes: holds most headers, so remote files take one request
LONGEST_HEADER = 100_000_000  # bytes, as in the safetensors library
ITEM_BYTES = {
    **dict.fromkeys(("F64", "I64", "U64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "I8", "U8", "BOOL"), 1),
}


@dataclass(frozen=True)
class Declared:
    """One tensor: its safetensors type name and its shape."""

    kind: str
    shape: tuple[int, ...]

    @property
    def itemsize(self) -> int:
        """Bytes of one entry."""
        return ITEM_BYTES[self.kind]

    @property
    def row_bytes(self) -> int:
        return self.itemsize * math.prod(self.shape[1:])

    @property
    def nbytes(self) -> int:
        return self.itemsize * math.prod(self.shape)


class TensorStream:
    """Writes one file, which becomes a safetensors file with `finish`."""

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
        self._offsets, offset = {}, self._begin
        for name, tensor in self._declared.items():
            self._offsets[name] = offset
            offset += tensor.nbytes
        self._end = offset
        self._file: int | None = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)

    def write(self, name: str, row: int, data: memoryview) -> None:
        """Write rows of a tensor from number `row` on. Raises OSError, as on a full disk."""
        self._write(data, self._offsets[name] + row * self._declared[name].row_bytes)

    def append(self, data: bytes | memoryview) -> int:
        """Append to the growing tensor; return the data's offset in it."""
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
        """Close the file; an unfinished one stays as it is."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    @property
    def _open(self) -> int:
        if self._file is None:
            raise ValueError("the file is closed")
        return self._file

    def _write(self, data: memoryview, offset: int) -> None:
        while data:
            written = os.pwrite(self._open, data, offset)
            data, offset = data[written:], offset + written

    def _header(self, manifest: Manifest, grown: int) -> str:
        entries: dict[str, Any] = {}
        offset = 0
        tensors = dict(self._declared)
        if self._growing is not None:
            tensors[self._growing] = Declared("U8", (grown,))
        for name, tensor in tensors.items():
            ends = [offset, offset + tensor.nbytes]
            entries[name] = {"dtype": tensor.kind, "shape": tensor.shape, "data_offsets": ends}
            offset = ends[1]
        # "format": transformers refuses a model file without it
        entries["__metadata__"] = {"format": "pt", MANIFEST_KEY: canonical(asdict(manifest))}
        return canonical(entries)


def read_header(
    name: object, size: int, read: Callable[[int, int], bytes]
) -> tuple[dict[str, str], dict[str, tuple[Declared, int]]]:
    """The metadata of a file of `size` bytes, local or remote, and for each tensor its declaration
    and first byte in the file; `read(offset, count)` returns bytes of it.

    As strict as the safetensors library: tensors follow one another, without gaps, up to the end.
    Raises UserError if they do not; no more is allocated than the file holds.
    """
    try:
        head = read(0, min(size, FIRST_READ))
        length = int.from_bytes(head[:8], "little")
        if len(head) < 8 or 8 + length > size:
            raise ValueError("it is cut short")
        if length > LONGEST_HEADER:
            raise ValueError(f"its header has {length} bytes")
        head += read(len(head), 8 + length - len(head)) if 8 + length > len(head) else b""
        entries = json.loads(head[8 : 8 + length])
        metadata = entries.pop("__metadata__", {})
        if not all(isinstance(value, str) for value in metadata.values()):
            raise ValueError("its metadata are not texts")
        tensors, spans = {}, []
        for tensor, entry in entries.items():
            shape, (first, last) = tuple(entry["shape"]), entry["data_offsets"]
            if any(type(number) is not int or number < 0 for number in (*shape, first, last)):
                raise ValueError(f"{tensor} has a shape or a place that is no number")
            declared = Declared(entry["dtype"], shape)
            if last - first != declared.nbytes:
                raise ValueError(f"{tensor} has a size that its shape does not give")
            tensors[tensor] = (declared, 8 + length + first)
            spans.append((first, last))
        ends = [0, *(last for _, last in sorted(spans))]
        if [first for first, _ in sorted(spans)] != ends[:-1] or 8 + length + ends[-1] != size:
            raise ValueError("its tensors do not fill it")
    except NOT_OURS as fault:
        raise UserError(f"{name}: is not a whole safetensors file ({fault}): {REMAKE}") from None
    return metadata, tensors
