"""From shards on disk to packs on the device, read ahead of the computation.

Reader threads fill one buffer for each part of a pack with the documents' bytes as they are stored.
The buffer goes to the device as it is, so a quantised state crosses the bus at its stored size, and
is decoded there. On CUDA buffers are pinned, and copy and decoding run on a stream of their own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from eagle3.errors import UserError
from eagle3.features.layout import Layout
from eagle3.features.reader import FeatureShard, decoded
from eagle3.features.source import Address
from eagle3.objective.pack import Pack
from eagle3.tokens.schedule import Documents
from eagle3.tokens.shards import TokenShard, read_token_shard

Read = TypeVar("Read")
READERS = 2  # threads that read packs
OPENERS = 8  # threads that open shards, each of which may lie behind a network
ANNOUNCED = 8  # packs that are fetched ahead; of objects, their states in stored form are kept


@dataclass(frozen=True)
class ShardPair:
    """A token shard and the states captured from it."""

    tokens: TokenShard
    features: FeatureShard


@dataclass(frozen=True)
class StagedPack:
    """A pack whose states are still in stored form. N tokens, T rows of aux, R rows of last."""

    input_ids: torch.Tensor  # int64 [N]
    loss_mask: torch.Tensor  # bool [N]
    documents: torch.Tensor  # int64 [N]
    positions: torch.Tensor  # int64 [N]
    row_tokens: torch.Tensor  # int64 [T]
    last_tokens: torch.Tensor  # int64 [R]
    buffers: dict[str, torch.Tensor]  # uint8 [T or R, row_bytes] for each part of the layout

    def to(self, device: torch.device) -> StagedPack:
        moved = {
            f.name: getattr(self, f.name).to(device, non_blocking=True)
            for f in fields(self)
            if f.name != "buffers"
        }
        buffers = {n: t.to(device, non_blocking=True) for n, t in self.buffers.items()}
        return StagedPack(**moved, buffers=buffers)

    def decoded(self, layout: Layout) -> Pack:
        states = decoded(layout, self.buffers)
        return Pack(
            input_ids=self.input_ids,
            loss_mask=self.loss_mask,
            documents=self.documents,
            positions=self.positions,
            aux=states["aux"],
            row_tokens=self.row_tokens,
            last=states["last"],
            last_tokens=self.last_tokens,
            teacher_argmax=states["teacher_argmax"].long(),
            teacher_lse=states["teacher_lse"],
        )


class TrainingData:
    """All documents of a stage, numbered through its shards in order."""

    def __init__(
        self,
        token_paths: list[Path],
        feature_paths: Sequence[Address],
        tokens_digest: str | None = None,
        features_digest: str | None = None,
    ) -> None:
        """Raises UserError if shards do not pair up, are damaged, or are of other settings."""
        if len(token_paths) != len(feature_paths):
            raise UserError(f"{len(token_paths)} token shards but {len(feature_paths)} of states")

        def pair(token_path: Path, feature_path: Address) -> ShardPair:
            tokens = read_token_shard(token_path, tokens_digest)
            return ShardPair(tokens, FeatureShard(feature_path, tokens, features_digest))

        with ThreadPoolExecutor(OPENERS) as openers:
            self.pairs = list(openers.map(pair, token_paths, feature_paths))
        self.documents = Documents.of(pair.tokens for pair in self.pairs)
        self.first_document = np.cumsum([0, *(len(pair.tokens) for pair in self.pairs)])

    @property
    def layout(self) -> Layout:
        """How states are stored, the same in every shard."""
        return self.pairs[0].features.layout

    def inputs(self) -> dict[str, str]:
        """Checksums of the token shards; those of the states are tied to them."""
        return {f"tokens-{i}": p.tokens.manifest.content_sha256 for i, p in enumerate(self.pairs)}

    def pack(self, numbers: np.ndarray) -> Pack:
        """The pack of some documents, in ordinary memory."""
        return self.staged(numbers).decoded(self.layout)

    def staged(self, numbers: np.ndarray, pinned: bool = False) -> StagedPack:
        """The pack of some documents, its states as stored."""
        found = [self._find(number) for number in numbers.tolist()]
        buffers, views = self._buffers(found, pinned)
        columns: dict[str, list[np.ndarray]] = {
            f.name: [] for f in fields(StagedPack) if f.name != "buffers"
        }
        start = 0
        for slot, ((pair, document), view) in enumerate(zip(found, views, strict=True)):
            pair.features.read_into(document, view)
            needed = pair.features.layout.needed
            kept = int(needed.kept[document])
            where = slice(int(pair.tokens.doc_offsets[document]), None)
            first, last = needed.last_offsets[document : document + 2].tolist()
            ids, mask = pair.tokens.input_ids[where][:kept], pair.tokens.loss_mask[where][:kept]
            columns["input_ids"].append(ids.astype(np.int64))
            columns["loss_mask"].append(mask.astype(bool))
            columns["documents"].append(np.full(kept, slot))
            columns["positions"].append(np.arange(kept))
            columns["row_tokens"].append(start + np.arange(max(kept - 2, 0)))
            columns["last_tokens"].append(start + needed.last_positions[first:last])
            start += kept
        tensors = {n: torch.from_numpy(np.concatenate(parts)) for n, parts in columns.items()}
        if pinned:
            tensors = {name: tensor.pin_memory() for name, tensor in tensors.items()}
        return StagedPack(**tensors, buffers=buffers)

    def announce(self, numbers: np.ndarray) -> None:
        """Have the states of some documents fetched; returns at once."""
        for number in numbers.tolist():
            pair, document = self._find(number)
            pair.features.will_need(document)

    def rows(self, packs: Iterable[np.ndarray]) -> int:
        """n_0 of some packs: rows with a loss at step 0, known before any forward pass."""
        return int(sum(self.documents.rows[pack].sum() for pack in packs))

    def _find(self, number: int) -> tuple[ShardPair, int]:
        """The shards that hold a document, and its number there."""
        shard = int(np.searchsorted(self.first_document, number, side="right")) - 1
        return self.pairs[shard], number - int(self.first_document[shard])

    def _buffers(
        self, found: list[tuple[ShardPair, int]], pinned: bool
    ) -> tuple[dict[str, torch.Tensor], list[dict[str, np.ndarray]]]:
        """One uint8 [n, row_bytes] for each part, and each document's slices of them."""
        buffers: dict[str, torch.Tensor] = {}
        views: list[dict[str, np.ndarray]] = [{} for _ in found]
        for part in self.layout.parts:
            spans = [pair.features.layout.rows(part, document) for pair, document in found]
            ends = np.cumsum([0, *(last - first for first, last in spans)])
            width = part.column.row_bytes
            buffer = torch.empty(int(ends[-1]), width, dtype=torch.uint8, pin_memory=pinned)
            buffers[part.name] = buffer
            for view, start, end in zip(views, ends[:-1], ends[1:], strict=True):
                view[part.name] = buffer.numpy()[start:end]
        return buffers, views


def read_ahead(
    data: TrainingData, packs: Iterable[np.ndarray], device: torch.device
) -> Iterator[Pack]:
    """Packs in order on `device`; the next ones are read while the caller works on the last."""
    planned = list(packs)
    if device.type != "cuda":
        yield from _in_order(data.pack, data, planned)
        return
    side = torch.cuda.Stream(device)
    sent: deque[tuple[Pack, torch.cuda.Event]] = deque()
    for staged in _in_order(partial(data.staged, pinned=True), data, planned):
        with torch.cuda.stream(side):
            pack = staged.to(device).decoded(data.layout)
            sent.append((pack, side.record_event()))
        if len(sent) > 1:  # one pack is on its way while another is computed on
            yield _received(*sent.popleft())
    while sent:
        yield _received(*sent.popleft())


def _received(pack: Pack, arrived: torch.cuda.Event) -> Pack:
    """A pack that the current stream may read."""
    current = torch.cuda.current_stream()
    current.wait_event(arrived)
    for f in fields(pack):
        getattr(pack, f.name).record_stream(current)  # else its memory is reused too early
    return pack


def _in_order(
    read: Callable[[np.ndarray], Read], data: TrainingData, packs: list[np.ndarray]
) -> Iterator[Read]:
    """What `read` makes of each pack, `READERS` of them at work at once."""
    for numbers in packs[:ANNOUNCED]:
        data.announce(numbers)
    with ThreadPoolExecutor(READERS) as readers:
        reading: deque[Future[Read]] = deque()
        for position, numbers in enumerate(packs):
            for later in packs[position + ANNOUNCED : position + ANNOUNCED + 1]:
                data.announce(later)
            reading.append(readers.submit(read, numbers))
            if len(reading) > READERS:
                yield reading.popleft().result()
        while reading:
            yield reading.popleft().result()
