"""Reading a hidden-state shard, a local file or an object: any document, in any order, checked."""

from __future__ import annotations

import numpy as np
import torch
import xxhash

from eagle3.errors import UserError
from eagle3.files.artifact import REMAKE, Manifest
from eagle3.files.tensor_file import checked_manifest
from eagle3.files.tensor_stream import read_header
from eagle3.store.byte_source import Address, open_source
from eagle3.store.codecs import CODECS, TYPES
from eagle3.store.compression import decompress
from eagle3.store.layout import CHECKSUM, FRAMES, INDEX, LAST_CHUNKS, Layout
from eagle3.tokens.shards import TokenShard

KIND = "hidden_states"


class FeatureShard:
    """Random access to the documents of a shard. Safe to read from several threads."""

    def __init__(
        self, path: Address, tokens: TokenShard, settings_digest: str | None = None
    ) -> None:
        """Raises UserError if the file is damaged, of other settings, or of other tokens."""
        self.path, self.tokens = path, tokens
        self._source = open_source(path)
        metadata, present = read_header(path, self._source.size, self._bytes)
        self.manifest = checked_manifest(path, metadata, KIND, settings_digest)
        if self.manifest.inputs.get("tokens") != tokens.manifest.content_sha256:
            raise UserError(f"{path}: was captured from other tokens: {REMAKE}")
        self.layout = _layout(path, self.manifest, tokens)
        declared = self.layout.declared()
        stored = {name: tensor for name, (tensor, _) in present.items() if name != FRAMES}
        if {n: (d.kind, d.shape) for n, d in stored.items()} != {
            n: (d.kind, d.shape) for n, d in declared.items()
        } or (FRAMES in present) != self.layout.framed:
            raise UserError(
                f"{path}: holds other tensors than its tokens and codec require: {REMAKE}"
            )
        self._place = {name: place for name, (_, place) in present.items()}
        self._checksums = self._read_tensor(CHECKSUM, np.dtype("<u8"), declared[CHECKSUM].shape)
        self._index = None
        if self.layout.framed:
            self._index = self._read_tensor(INDEX, np.dtype("<i8"), declared[INDEX].shape)
        if self._index is not None:
            frames, _ = present[FRAMES]
            least, most = self._index.min(initial=0), self._index.max(initial=0)
            ends = self._index.sum(axis=1).max(initial=0)  # no overflow while `most` is sane
            if least < 0 or max(most, ends) > frames.nbytes:
                raise UserError(f"{path}: places documents outside the file: {REMAKE}")

    def read_into(self, document: int, buffers: dict[str, torch.Tensor]) -> None:
        """Fill `buffers` with a document's rows, uint8 [n, row_bytes] for each part.

        Raises UserError if they are not what was written.
        """
        pieces, frame = self._pieces(document), None
        views = {n: memoryview(buffers[n].numpy().reshape(-1).data) for n in pieces if n != FRAMES}
        if FRAMES in pieces:
            frame = views[FRAMES] = memoryview(bytearray(pieces[FRAMES][1]))
        self._source.read([(place, views[name]) for name, (place, _) in pieces.items()])
        checksum = xxhash.xxh3_64()
        for name in pieces:
            if name != FRAMES:
                checksum.update(views[name])
        frames = self._frames(frame, document)
        for frame in frames.values():
            checksum.update(frame)
        if checksum.intdigest() != int(self._checksums[document]):
            raise UserError(
                f"{self.path}: document {document} does not match its checksum: {REMAKE}"
            )
        stored = self.layout.stored
        for name, frame in frames.items():
            try:
                decompress(frame, buffers[name].numpy(), stored.planes, stored.compressed_planes)
            except UserError as fault:
                raise UserError(f"{self.path}: document {document}: {fault}: {REMAKE}") from None

    def read(self, document: int) -> dict[str, torch.Tensor]:
        """The decoded rows of one document: aux [T, C H], last [R, H] and the teacher's [R]."""
        buffers = self.buffers(document)
        self.read_into(document, buffers)
        return decoded(self.layout, buffers)

    def buffers(self, document: int) -> dict[str, torch.Tensor]:
        """Buffers for `read_into`."""
        spans = [(part, *self.layout.rows(part, document)) for part in self.layout.parts]
        return {
            p.name: torch.empty(b - a, p.column.row_bytes, dtype=torch.uint8) for p, a, b in spans
        }

    def will_need(self, document: int) -> None:
        """Start prefetching a document; returns at once."""
        self._source.will_need(list(self._pieces(document).values()))

    def _pieces(self, document: int) -> dict[str, tuple[int, int]]:
        """Where a document's bytes lie, by tensor: first byte in the file, bytes."""
        pieces = {}
        for part in self.layout.parts:
            if not part.framed:
                first, stop = self.layout.rows(part, document)
                width = part.column.row_bytes
                pieces[part.name] = self._place[part.name] + first * width, (stop - first) * width
        if self._index is not None:
            start, aux, last = self._index[document].tolist()
            pieces[FRAMES] = self._place[FRAMES] + start, aux + last
        return pieces

    def _frames(self, frame: memoryview | None, document: int) -> dict[str, memoryview]:
        """The document's frames by part; none without compression."""
        if self._index is None or frame is None:
            return {}
        _, aux, _ = self._index[document].tolist()
        return {"aux": frame[:aux], "last": frame[aux:]}

    def _read_tensor(self, name: str, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
        """One whole tensor of the file."""
        count = int(np.prod(shape))
        data = self._bytes(self._place[name], count * dtype.itemsize)
        return np.frombuffer(data, dtype).reshape(shape)

    def _bytes(self, place: int, size: int) -> bytes:
        data = bytearray(size)
        self._source.read([(place, memoryview(data))])
        return bytes(data)


def _layout(path: Address, manifest: Manifest, tokens: TokenShard) -> Layout:
    """The layout that the manifest and the tokens determine."""
    try:
        counts, layers = manifest.counts, len(manifest.counts["aux_layers"])
        return Layout(tokens.needed, counts["codec"], int(counts["hidden_size"]), layers)
    except (KeyError, TypeError, ValueError, OverflowError, UserError) as fault:
        raise UserError(f"{path}: its manifest does not say how it is stored ({fault})") from None


def decoded(layout: Layout, buffers: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """aux [T, C H], last [R, H], teacher_argmax int32 [R] and teacher_lse float32 [R], on the
    device of the buffers."""
    parts = {part.name: buffers[part.name].view(TYPES[part.column.kind]) for part in layout.parts}
    states = {}
    for name, chunks in (("aux", layout.layers), ("last", LAST_CHUNKS)):
        columns = {n.removeprefix(name): t for n, t in parts.items() if n.startswith(name)}
        states[name] = CODECS[layout.codec].decode(columns, chunks)
    return states | {n: parts[n].flatten() for n in ("teacher_argmax", "teacher_lse")}
