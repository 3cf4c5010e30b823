"""From shards on disk to packs in memory, one read ahead of the computation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from eagle3.errors import UserError
from eagle3.features.shards import FeatureShard
from eagle3.objective.pack import Pack
from eagle3.tokens.schedule import Documents
from eagle3.tokens.shards import TokenShard, read_token_shard


@dataclass(frozen=True)
class ShardPair:
    """A token shard and the states captured from it."""

    tokens: TokenShard
    features: FeatureShard


class TrainingData:
    """All documents of a stage, numbered through its shards in order."""

    def __init__(
        self,
        token_paths: list[Path],
        feature_paths: list[Path],
        tokens_digest: str | None = None,
        features_digest: str | None = None,
    ) -> None:
        """Raises UserError if shards do not pair up, are damaged, or are of other settings."""
        if len(token_paths) != len(feature_paths):
            raise UserError(f"{len(token_paths)} token shards but {len(feature_paths)} of states")
        self.pairs = []
        for token_path, feature_path in zip(token_paths, feature_paths, strict=True):
            tokens = read_token_shard(token_path, tokens_digest)
            self.pairs.append(
                ShardPair(tokens, FeatureShard(feature_path, tokens, features_digest))
            )
        self.documents = Documents.of(pair.tokens for pair in self.pairs)
        self.first_document = np.cumsum([0, *(len(pair.tokens) for pair in self.pairs)])

    def inputs(self) -> dict[str, str]:
        """Checksums of the token shards; those of the states are tied to them."""
        return {f"tokens-{i}": p.tokens.manifest.content_sha256 for i, p in enumerate(self.pairs)}

    def pack(self, numbers: np.ndarray) -> Pack:
        """The pack of some documents."""
        parts: dict[str, list[torch.Tensor]] = {name: [] for name in Pack.__dataclass_fields__}
        start = 0
        for slot, number in enumerate(numbers.tolist()):
            start += self._append(parts, slot, start, number)
        return Pack(**{name: torch.cat(tensors) for name, tensors in parts.items()})

    def _append(
        self, parts: dict[str, list[torch.Tensor]], slot: int, start: int, number: int
    ) -> int:
        """Add one document that begins at token `start` of the pack; return its length."""
        shard = int(np.searchsorted(self.first_document, number, side="right")) - 1
        pair, document = self.pairs[shard], number - int(self.first_document[shard])
        needed = pair.features.needed
        kept = int(needed.kept[document])
        where = slice(int(pair.tokens.doc_offsets[document]), None)
        states = pair.features.read(document)
        c, d = needed.last_offsets[document : document + 2].tolist()
        ids, mask = pair.tokens.input_ids[where][:kept], pair.tokens.loss_mask[where][:kept]
        parts["input_ids"].append(torch.from_numpy(ids.astype(np.int64)))
        parts["loss_mask"].append(torch.from_numpy(mask.astype(bool)))
        parts["documents"].append(torch.full((kept,), slot))
        parts["positions"].append(torch.arange(kept))
        parts["aux"].append(states.aux)
        parts["row_tokens"].append(start + torch.arange(len(states.aux)))
        parts["last"].append(states.last)
        parts["last_tokens"].append(start + torch.from_numpy(needed.last_positions[c:d]))
        parts["teacher_argmax"].append(states.teacher_argmax.long())
        parts["teacher_lse"].append(states.teacher_lse)
        return kept

    def rows(self, packs: Iterable[np.ndarray]) -> int:
        """n_0 of some packs: rows with a loss at step 0, known before any forward pass."""
        return int(sum(self.documents.rows[pack].sum() for pack in packs))


def read_ahead(
    data: TrainingData, packs: Iterable[np.ndarray], device: torch.device
) -> Iterator[Pack]:
    """Packs in order, the next one being read while the caller works on the last."""
    with ThreadPoolExecutor(max_workers=1) as reader:
        upcoming = None
        for numbers in packs:
            following = reader.submit(data.pack, numbers)
            if upcoming is not None:
                yield upcoming.result().to(device)
            upcoming = following
        if upcoming is not None:
            yield upcoming.result().to(device)
