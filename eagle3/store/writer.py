"""Writing a hidden-state shard while the target computes the next batch.

The caller hands over encoded rows of some documents; a separate thread waits for them to arrive
from the device, compresses, checksums and writes them. The queue between the two is short, so
memory stays flat and a slow disk slows the caller down instead of filling it.
"""

from __future__ import annotations

import hashlib
import queue
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import xxhash

from eagle3.errors import UserError
from eagle3.files.artifact import Manifest, canonical
from eagle3.files.tensor_stream import TensorStream
from eagle3.store.codecs import Parts
from eagle3.store.compression import compress
from eagle3.store.layout import CHECKSUM, FRAMES, INDEX, Layout

WAITING = 2  # batches that may wait for the disk


@dataclass(frozen=True)
class _Batch:
    documents: list[int]
    parts: Parts  # rows of the documents, one after another
    arrived: torch.cuda.Event | None
    sources: Parts  # device tensors, kept alive until they have arrived


class ShardWriter:
    """Writes one shard to `path`. Call `finish` at the end; until then the file is not a shard."""

    def __init__(self, path: Path, layout: Layout, manifest: Manifest, threads: int = 1) -> None:
        """`threads`: how many documents are compressed at once."""
        self.path, self.layout, self._manifest = path, layout, manifest
        self._seen = np.zeros(layout.documents, dtype=bool)
        self._checksums = np.zeros(layout.documents, dtype=np.uint64)
        self._index = np.zeros((layout.documents, 3), dtype=np.int64)
        growing = FRAMES if layout.framed else None
        self._stream = TensorStream(path, layout.declared(), manifest, growing)
        self._copy_stream: torch.cuda.Stream | None = None
        self._fault: BaseException | None = None
        self._queue: queue.Queue[_Batch | None] = queue.Queue(WAITING)
        self._pool = ThreadPoolExecutor(threads) if layout.framed else None
        self._thread = threading.Thread(target=self._run, name="shard writer", daemon=True)
        self._thread.start()

    def put(self, documents: Sequence[int], parts: Parts) -> None:
        """Hand over the rows of some documents, one after another in each part.

        The tensors are not to be changed afterwards. Raises UserError for a document that was
        written before, and OSError if an earlier batch could not be written.
        """
        self._raise_fault()
        for document in documents:
            if self._seen[document]:
                raise UserError(f"{self.path}: document {document} was captured twice")
            self._seen[document] = True
        host, arrived = self._to_host(parts)
        self._queue.put(_Batch(list(documents), host, arrived, parts))

    def finish(self, counts: dict[str, object]) -> Manifest:
        """Wait for the disk, write the rest and return the manifest, `counts` added.

        Raises UserError if a document is missing, OSError if the disk is full.
        """
        self._drain()
        self._raise_fault()
        # documents without rows need no `put`; their checksum is that of no bytes
        empty = self.layout.needed.kept == 0
        self._checksums[empty] = xxhash.xxh3_64_intdigest(b"")
        missing = np.flatnonzero(~(self._seen | empty))
        if len(missing):
            raise UserError(
                f"{self.path}: {len(missing)} of {self.layout.documents} documents were not "
                f"captured (first: {missing[:5].tolist()})"
            )
        self._stream.write(CHECKSUM, 0, memoryview(self._checksums.tobytes()))
        if self.layout.framed:
            self._stream.write(INDEX, 0, memoryview(self._index.tobytes()))
        declared = {n: [d.kind, d.shape] for n, d in self.layout.declared().items()}
        content = hashlib.sha256(canonical(declared).encode() + self._checksums.tobytes())
        counts = {**self._manifest.counts, **counts}
        manifest = replace(self._manifest, counts=counts, content_sha256=content.hexdigest())
        self._stream.finish(manifest)
        return manifest

    def close(self) -> None:
        """Write what was handed over and close the file, finished or not."""
        self._drain()
        self._stream.close()

    def _drain(self) -> None:
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()
        if self._pool is not None:
            self._pool.shutdown()

    def _to_host(self, parts: Parts) -> tuple[Parts, torch.cuda.Event | None]:
        """Start copies to pinned memory, which overlap with the next forward pass. The event occurs
        when they have arrived."""
        device = next(iter(parts.values())).device
        if device.type == "cpu":
            return parts, None
        if self._copy_stream is None:
            self._copy_stream = torch.cuda.Stream(device)
        self._copy_stream.wait_stream(torch.cuda.current_stream(device))
        host = {}
        with torch.cuda.stream(self._copy_stream):
            for name, tensor in parts.items():
                pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
                host[name] = pinned.copy_(tensor, non_blocking=True)
            return host, self._copy_stream.record_event()

    def _raise_fault(self) -> None:
        if self._fault is not None:
            raise self._fault

    def _run(self) -> None:
        while (batch := self._queue.get()) is not None:
            if self._fault is not None:
                continue  # the caller's next call raises it; the queue must not fill up
            try:
                self._write(batch)
            except BaseException as fault:  # raised again in the caller's thread
                self._fault = fault

    def _write(self, batch: _Batch) -> None:
        if batch.arrived is not None:
            batch.arrived.synchronize()
        pieces = self._pieces(batch)
        mapper = map if self._pool is None else self._pool.map
        for document, piece, frames in zip(
            batch.documents, pieces, mapper(self._frames, pieces), strict=True
        ):
            checksum = xxhash.xxh3_64()
            for part in self.layout.parts:
                if not part.framed:
                    first, _ = self.layout.rows(part, document)
                    data = piece[part.name].reshape(-1).data
                    checksum.update(data)
                    self._stream.write(part.name, first, data)
            if self.layout.framed:
                start = self._stream.append(b"".join(frames))
                self._index[document] = (start, *map(len, frames))
                for frame in frames:
                    checksum.update(frame)
            self._checksums[document] = checksum.intdigest()

    def _pieces(self, batch: _Batch) -> list[dict[str, np.ndarray]]:
        """The rows of each document, uint8 [n, row_bytes] by part."""
        rows = {name: _row_bytes(tensor) for name, tensor in batch.parts.items()}
        starts = dict.fromkeys(rows, 0)
        pieces = []
        for document in batch.documents:
            piece = {}
            for part in self.layout.parts:
                first, stop = self.layout.rows(part, document)
                start = starts[part.name]
                starts[part.name] = start + stop - first
                piece[part.name] = rows[part.name][start : starts[part.name]]
            pieces.append(piece)
        return pieces

    def _frames(self, piece: dict[str, np.ndarray]) -> list[bytes]:
        """The compressed parts of one document, aux first."""
        stored = self.layout.stored
        return [
            compress(piece[part.name], stored.planes, stored.compressed_planes)
            for part in self.layout.parts
            if part.framed
        ]


def _row_bytes(tensor: torch.Tensor) -> np.ndarray:
    """The bytes of a CPU tensor, uint8 [N, row_bytes], without a copy."""
    rows = tensor.contiguous() if tensor.dim() == 2 else tensor.contiguous()[:, None]
    return rows.view(torch.uint8).numpy()
