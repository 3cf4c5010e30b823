"""Tokens and captured states of a stage, and the packs built from them.

Ranks that share a pack keep only their own rows of it, but read whole documents, which have one
checksum each.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eagle3.errors import UserError
from eagle3.objective.pack import HostColumns, Pack
from eagle3.objective.sequence_parallel.sharding import PackShards, RowShard, SequenceSharding
from eagle3.run import Run
from eagle3.store.byte_source import Address, address
from eagle3.store.codecs import TYPES
from eagle3.store.layout import Layout, Part
from eagle3.store.reader import FeatureShard, decoded
from eagle3.tokens.schedule import Documents
from eagle3.tokens.shards import read_token_shard, token_inputs

OPENERS = 8  # threads that open shards, each of which may be read over a network


Located = tuple[FeatureShard, int]  # a document: its shard, and its number there


@dataclass(frozen=True)
class StagedPack:
    """A pack, or a shard of it, whose states are still in stored form. N tokens, T rows of aux, R
    rows of last."""

    input_ids: torch.Tensor  # int64 [N]
    loss_mask: torch.Tensor  # bool [N]
    documents: torch.Tensor  # int64 [N]
    positions: torch.Tensor  # int64 [N]
    row_tokens: torch.Tensor  # int64 [T]
    last_tokens: torch.Tensor  # int64 [R]
    buffers: dict[str, torch.Tensor]  # uint8 [T or R, row_bytes] for each part of the layout
    shards: PackShards | None = None
    host: HostColumns | None = None  # kept on the host if the pack is on a GPU

    def to(self, device: torch.device) -> StagedPack:
        moved: dict[str, Any] = {
            name: getattr(self, name).to(device, non_blocking=True) for name in TOKEN_COLUMNS
        }
        buffers = {n: t.to(device, non_blocking=True) for n, t in self.buffers.items()}
        return replace(self, **moved, buffers=buffers, host=self.columns())

    def columns(self) -> HostColumns:
        """The columns that determine which rows are computed."""
        argmax = self.buffers["teacher_argmax"].view(TYPES["I32"]).flatten().long()
        tensors = {name: getattr(self, name) for name in TOKEN_COLUMNS if name != "last_tokens"}
        return HostColumns(**tensors, teacher_argmax=argmax)

    def decoded(self, layout: Layout) -> Pack:
        tensors: dict[str, Any] = {name: getattr(self, name) for name in TOKEN_COLUMNS}
        tensors |= decoded(layout, self.buffers)
        tensors["teacher_argmax"] = tensors["teacher_argmax"].long()
        return Pack(**tensors, shards=self.shards, host=self.host)


TOKEN_COLUMNS = [f.name for f in fields(StagedPack) if f.name not in ("buffers", "shards", "host")]


class TrainingData:
    """All documents of a stage, numbered through its shards in order."""

    def __init__(
        self,
        token_paths: list[Path],
        feature_paths: Sequence[Address],
        tokens_digest: str | None = None,
        features_digest: str | None = None,
    ) -> None:
        """Raises UserError if shards do not pair up, are damaged, or belong to other settings."""
        if len(token_paths) != len(feature_paths):
            raise UserError(f"{len(token_paths)} token shards but {len(feature_paths)} of states")

        def open_shard(token_path: Path, feature_path: Address) -> FeatureShard:
            tokens = read_token_shard(token_path, tokens_digest)
            return FeatureShard(feature_path, tokens, features_digest)

        with ThreadPoolExecutor(OPENERS) as openers:
            self.shards = list(openers.map(open_shard, token_paths, feature_paths))
        self.documents = Documents.of(shard.tokens for shard in self.shards)
        self.first_document = np.cumsum([0, *(len(shard.tokens) for shard in self.shards)])

    @property
    def layout(self) -> Layout:
        """How states are stored, the same in every shard."""
        return self.shards[0].layout

    def inputs(self) -> dict[str, str]:
        """Checksums of the token shards; those of the states are tied to them."""
        return token_inputs(shard.tokens.manifest for shard in self.shards)

    def pack(self, numbers: np.ndarray, sharding: SequenceSharding | None = None) -> Pack:
        """The pack of some documents, or this rank's shard of it, in ordinary memory."""
        return self.staged(numbers, sharding).decoded(self.layout)

    def staged(
        self, numbers: np.ndarray, sharding: SequenceSharding | None = None, pinned: bool = False
    ) -> StagedPack:
        """The pack of some documents, or this rank's shard of it, its states as stored."""
        located = [self._find(number) for number in numbers.tolist()]
        tensors = _columns(located)
        shards = sharding.of(tensors["row_tokens"], tensors["last_tokens"]) if sharding else None
        if shards is None:
            buffers = self._document_buffers(located, pinned)
        else:
            buffers = self._shard_buffers(located, shards.local, pinned)
        if pinned:
            tensors = {name: tensor.pin_memory() for name, tensor in tensors.items()}
        return StagedPack(buffers=buffers, shards=shards, host=None, **tensors)

    def announce(self, numbers: np.ndarray) -> None:
        """Start to fetch the states of some documents; returns at once."""
        for number in numbers.tolist():
            shard, document = self._find(number)
            shard.will_need(document)

    def rows(self, packs: Iterable[np.ndarray]) -> int:
        """n_0 of some packs: rows with a loss at step 0, known before any forward pass."""
        return int(sum(self.documents.rows[pack].sum() for pack in packs))

    def _find(self, number: int) -> Located:
        """The shard that holds a document, and its number there."""
        shard = int(np.searchsorted(self.first_document, number, side="right")) - 1
        return self.shards[shard], number - int(self.first_document[shard])

    def _document_buffers(self, located: list[Located], pinned: bool) -> dict[str, torch.Tensor]:
        """The states of documents: one uint8 [n, row_bytes] for each part."""
        buffers: dict[str, torch.Tensor] = {}
        views: list[dict[str, torch.Tensor]] = [{} for _ in located]
        for part in self.layout.parts:
            ends = self._ends(part, located)
            width = part.column.row_bytes
            buffer = torch.empty(ends[-1], width, dtype=torch.uint8, pin_memory=pinned)
            buffers[part.name] = buffer
            for view, start, end in zip(views, ends[:-1], ends[1:], strict=True):
                view[part.name] = buffer[start:end]
        for (shard, document), view in zip(located, views, strict=True):
            shard.read_into(document, view)
        return buffers

    def _shard_buffers(
        self, located: list[Located], share: RowShard, pinned: bool
    ) -> dict[str, torch.Tensor]:
        """The rows of a share, as `_document_buffers` has them."""
        parts = self.layout.parts
        wanted_rows = {
            part.name: (share.rows if part.of_aux else share.taught).numpy() for part in parts
        }
        ends = {part.name: self._ends(part, located) for part in parts}
        cuts = {name: np.searchsorted(wanted_rows[name], ends[name]) for name in wanted_rows}
        buffers = {
            part.name: torch.empty(
                len(wanted_rows[part.name]),
                part.column.row_bytes,
                dtype=torch.uint8,
                pin_memory=pinned,
            )
            for part in parts
        }
        for number, (shard, document) in enumerate(located):
            spans = {name: slice(*cut[number : number + 2]) for name, cut in cuts.items()}
            if all(span.start == span.stop for span in spans.values()):
                continue  # this rank has no row of the document
            document_buffers = shard.buffers(document)
            shard.read_into(document, document_buffers)
            for name, states in document_buffers.items():
                local = wanted_rows[name][spans[name]] - ends[name][number]
                buffers[name].numpy()[spans[name]] = states.numpy()[local]
        return buffers

    def _ends(self, part: Part, located: list[Located]) -> list[int]:
        """Where each document's rows of a part begin in the pack, and where the last ones end."""
        spans = [shard.layout.rows(part, document) for shard, document in located]
        return [0, *np.cumsum([stop - first for first, stop in spans]).tolist()]


def window_data(run: Run, stage: int) -> TrainingData:
    """The training data of a stage: the shards of its window."""
    return _data_of(run, run.window_tokens(stage), run.window_states(stage))


def held_out_data(run: Run) -> TrainingData:
    """The held-out shards, used for scores."""
    return _data_of(run, run.held_out_tokens(), run.held_out_states())


def _data_of(run: Run, tokens: list[str], states: list[str]) -> TrainingData:
    digests = run.settings["tokens"].digest, run.settings["hidden_states"].digest
    return TrainingData(list(map(Path, tokens)), list(map(address, states)), *digests)


def _columns(located: list[Located]) -> dict[str, torch.Tensor]:
    """The tensors of a pack that are not states."""
    columns: dict[str, list[np.ndarray]] = {name: [] for name in TOKEN_COLUMNS}
    start = 0
    for slot, (shard, document) in enumerate(located):
        needed = shard.layout.needed
        length, tokens = int(needed.kept[document]), shard.tokens
        mask = tokens.loss_mask[tokens.doc_offsets[document] :][:length]
        columns["input_ids"].append(tokens.kept_ids(document))
        columns["loss_mask"].append(mask.astype(bool))
        columns["documents"].append(np.full(length, slot))
        columns["positions"].append(np.arange(length))
        columns["row_tokens"].append(start + np.arange(max(length - 2, 0)))
        columns["last_tokens"].append(start + needed.taught(document))
        start += length
    return {name: torch.from_numpy(np.concatenate(parts)) for name, parts in columns.items()}
