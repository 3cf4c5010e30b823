"""Reading a hidden-state shard: any document, in any order, checked.

Rows are read straight into the caller's buffer (`pread`), which may be pinned memory: one copy, no
page faults, and a file that is cut short under us is an error and not a signal.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import xxhash

from eagle3.artifact import REMAKE, Manifest
from eagle3.errors import UserError
from eagle3.features.frames import decompress
from eagle3.features.layout import AUX_CHUNKS, CHECKSUM, FRAMES, INDEX, LAST_CHUNKS, Layout
from eagle3.tensorfile import open_tensors, read_manifest
from eagle3.tensorstream import places
from eagle3.tokens.needed import needed_states
from eagle3.tokens.shards import TokenShard

KIND = "hidden_states"


class FeatureShard:
    """Random access to the documents of a shard. Safe to read from several threads."""

    def __init__(self, path: Path, tokens: TokenShard, settings_digest: str | None = None) -> None:
        """Raises UserError if the file is damaged, of other settings, or of other tokens."""
        self.path = path
        self.manifest = read_manifest(path, KIND, settings_digest)
        if self.manifest.inputs.get("tokens") != tokens.manifest.content_sha256:
            raise UserError(f"{path}: was captured from other tokens: {REMAKE}")
        self.layout = _layout(path, self.manifest, tokens)
        found = places(path)
        declared = self.layout.declared()
        form = {name: tensor for name, (tensor, _) in found.items() if name != FRAMES}
        if {n: (d.kind, d.shape) for n, d in form.items()} != {
            n: (d.kind, d.shape) for n, d in declared.items()
        } or (FRAMES in found) != self.layout.framed:
            raise UserError(
                f"{path}: holds other tensors than its tokens and codec ask for: {REMAKE}"
            )
        self._place = {name: place for name, (_, place) in found.items()}
        with open_tensors(path) as handle:
            self._checksums = handle.get_tensor(CHECKSUM)
            self._index = handle.get_tensor(INDEX) if self.layout.framed else None
        if self._index is not None:
            frames, _ = found[FRAMES]
            least, most = self._index.min(initial=0), self._index.max(initial=0)
            after = self._index.sum(axis=1).max(initial=0)  # no overflow while `most` is sane
            if least < 0 or max(most, after) > frames.nbytes:
                raise UserError(f"{path}: places documents outside of itself: {REMAKE}")

    def read_into(self, document: int, buffers: dict[str, np.ndarray]) -> None:
        """Fill `buffers` with a document's rows, uint8 [n, row_bytes] for each part.

        Raises UserError if they are not what was written.
        """
        found = xxhash.xxh3_64()
        with self._opened() as file:
            for part in self.layout.parts:
                if not part.framed:
                    first, _ = self.layout.rows(part, document)
                    place = self._place[part.name] + first * part.column.row_bytes
                    found.update(self._read(file, buffers[part.name], place))
            frames = self._frames(file, document)
        for frame in frames.values():
            found.update(frame)
        if found.intdigest() != int(self._checksums[document]):
            raise UserError(
                f"{self.path}: document {document} does not match its checksum: {REMAKE}"
            )
        codec = self.layout.codec
        for name, frame in frames.items():
            try:
                decompress(frame, buffers[name], codec.planes, codec.compressed_planes)
            except UserError as fault:
                raise UserError(f"{self.path}: document {document}: {fault}: {REMAKE}") from None

    def read(self, document: int) -> dict[str, torch.Tensor]:
        """The decoded rows of one document: aux [T, 3H], last [R, H] and the teacher's [R]."""
        buffers = {}
        for part in self.layout.parts:
            first, last = self.layout.rows(part, document)
            shape = last - first, part.column.row_bytes
            buffers[part.name] = torch.empty(shape, dtype=torch.uint8)
        self.read_into(document, {name: tensor.numpy() for name, tensor in buffers.items()})
        return decoded(self.layout, buffers)

    @contextmanager
    def _opened(self) -> Iterator[int]:
        """The file, opened for one document: thousands of shards may be in use at once."""
        try:
            file = os.open(self.path, os.O_RDONLY)
        except FileNotFoundError:
            raise UserError(f"{self.path}: no such file") from None
        try:
            yield file
        finally:
            os.close(file)

    def _frames(self, file: int, document: int) -> dict[str, memoryview]:
        """The document's frames by part; none without compression."""
        if self._index is None:
            return {}
        start, aux, last = self._index[document].tolist()
        view = self._read(file, np.empty(aux + last, np.uint8), self._place[FRAMES] + start)
        return {"aux": view[:aux], "last": view[aux:]}

    def _read(self, file: int, into: np.ndarray, place: int) -> memoryview:
        """Fill `into`, contiguous uint8, from byte `place` of the file on; return its bytes."""
        whole = rest = memoryview(into.reshape(-1).data)
        while rest:
            count = os.preadv(file, [rest], place)
            if count == 0:
                raise UserError(f"{self.path}: ends too early: {REMAKE}")
            rest, place = rest[count:], place + count
        return whole

    def will_need(self, document: int) -> None:
        """Tell the system to fetch a document from the disk; returns at once."""
        if not hasattr(os, "posix_fadvise"):
            return  # macOS
        with self._opened() as file:
            for name, start, size in self._spans(document):
                place = self._place[name] + start
                os.posix_fadvise(file, place, size, os.POSIX_FADV_WILLNEED)

    def _spans(self, document: int) -> list[tuple[str, int, int]]:
        """Where a document's large parts lie: tensor, first byte in it, bytes."""
        if self._index is not None:
            start, aux, last = self._index[document].tolist()
            return [(FRAMES, start, aux + last)]
        spans = []
        for part in self.layout.parts:
            if part.name in ("aux", "last"):
                first, last = self.layout.rows(part, document)
                width = part.column.row_bytes
                spans.append((part.name, first * width, (last - first) * width))
        return spans


def _layout(path: Path, manifest: Manifest, tokens: TokenShard) -> Layout:
    """The layout that the manifest and the tokens ask for."""
    needed = needed_states(tokens.loss_mask, tokens.doc_offsets)
    try:
        return Layout(needed, manifest.counts["codec"], int(manifest.counts["hidden_size"]))
    except (KeyError, TypeError, ValueError) as fault:
        raise UserError(f"{path}: its manifest does not say how it is stored ({fault})") from None


def decoded(layout: Layout, buffers: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """aux [T, 3H], last [R, H], teacher_argmax int32 [R] and teacher_lse float32 [R], on the
    device of the buffers."""
    parts = {part.name: buffers[part.name].view(part.column.dtype) for part in layout.parts}
    found = {}
    for name, chunks in (("aux", AUX_CHUNKS), ("last", LAST_CHUNKS)):
        columns = {n.removeprefix(name): t for n, t in parts.items() if n.startswith(name)}
        found[name] = layout.codec.decode(columns, chunks)
    return found | {n: parts[n].flatten() for n in ("teacher_argmax", "teacher_lse")}
