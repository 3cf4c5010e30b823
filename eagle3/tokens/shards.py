"""Token shards: the documents of a fixed range of rows, as one safetensors file without padding.

    input_ids    int32 [T]      all documents, one after another
    loss_mask    uint8 [T]      1 on tokens that the target itself emits
    doc_offsets  int64 [D + 1]  document d is [doc_offsets[d], doc_offsets[d + 1])
    row_ids      uint8 [...]    the ids of the documents' rows, as a JSON list in UTF-8

Shard s holds the rows [s * size, (s + 1) * size) of its split (`Dataset.rows_of_shard`). Rows that
cannot be used make a shard smaller and never move another row; a shard may be empty. A row may be
several documents, if its template shows earlier turns differently once the chat goes on.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from eagle3.data.conversations import BadRow, Conversation
from eagle3.data.masks import TokenizedDocument
from eagle3.errors import UserError
from eagle3.files.artifact import NOT_OURS, REMAKE, Manifest, Settings, part_of
from eagle3.files.tensor_file import load_tensors, read_manifest, save_tensors
from eagle3.tokens.needed_states import NeededStates, needed_states, offsets_of

KIND = "tokens"
# a conversation, and its documents or the reason why there are none
Masked = tuple[Conversation, list[TokenizedDocument] | BadRow]
FEW = 8  # so few dropped rows never fail a shard


@dataclass(frozen=True)
class TokenShard:
    """A token shard in memory."""

    input_ids: np.ndarray  # int32 [T]
    loss_mask: np.ndarray  # uint8 [T]
    doc_offsets: np.ndarray  # int64 [D + 1]
    row_ids: list[str]  # [D]
    manifest: Manifest

    def __len__(self) -> int:
        return len(self.doc_offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """int64 [D]"""
        return np.diff(self.doc_offsets)

    @cached_property
    def needed(self) -> NeededStates:
        """The states that training reads."""
        return needed_states(self.loss_mask, self.doc_offsets)

    def kept_ids(self, document: int) -> np.ndarray:
        """int64 [L] ids of a document, cut after its last supervised token."""
        rest = self.input_ids[self.doc_offsets[document] :]
        return rest[: self.needed.kept[document]].astype(np.int64)


def write_token_shard(
    path: Path,
    conversations: Iterable[Conversation],
    masker: Callable[[Iterable[Conversation]], Iterable[Masked]],
    settings: Settings,
    inputs: dict[str, str],
    max_bad_fraction: float = 1.0,
) -> Manifest:
    """Tokenise `conversations` into a shard; unusable rows are counted by cause and listed.

    Raises UserError if more than `max_bad_fraction` of the rows, and not just a few, are dropped.
    """
    documents: list[TokenizedDocument] = []
    dropped: Counter[str] = Counter()
    first_of: dict[str, tuple[str, BadRow]] = {}  # by cause
    dropped_rows: list[dict[str, str]] = []
    rows = 0
    for conversation, masked in masker(conversations):
        rows += 1
        if isinstance(masked, BadRow):
            cause = str(masked)
            dropped[cause] += 1
            first_of.setdefault(cause, (conversation.id, masked))
            detail = {"detail": masked.detail} if masked.detail else {}
            dropped_rows.append({"id": conversation.id, "cause": cause, **detail})
        else:
            documents += masked
    if dropped.total() > max(max_bad_fraction * rows, FEW):
        causes = "".join(f"\n  {n} x {_explained(*first_of[c])}" for c, n in dropped.most_common(5))
        raise UserError(
            f"{path}: {dropped.total()} of {rows} conversations cannot be used, more than "
            f"dataset.max_bad_fraction {max_bad_fraction} allows:{causes}"
        )
    counts = {
        "rows": rows,
        "documents": len(documents),
        "tokens": sum(len(doc.input_ids) for doc in documents),
        "supervised": int(sum(doc.loss_mask.sum(dtype=np.int64) for doc in documents)),
        "truncated": sum(doc.truncated for doc in documents),
        "dropped": dict(dropped.most_common()),
        "first_dropped": dropped_rows[:100],
    }
    ids = json.dumps([doc.row_id for doc in documents]).encode()
    tensors = {
        "input_ids": _joined([doc.input_ids for doc in documents], np.int32),
        "loss_mask": _joined([doc.loss_mask for doc in documents], np.uint8),
        "doc_offsets": offsets_of([len(doc.input_ids) for doc in documents]),
        "row_ids": np.frombuffer(ids, dtype=np.uint8),
    }
    return save_tensors(path, tensors, Manifest.of(KIND, settings, inputs, counts, part_of(path)))


def _explained(identity: str, fault: BadRow) -> str:
    """A cause in one line, with its first row, what is wrong there, and the remedy."""
    example = f"row {identity!r}" + (f": {fault.detail}" if fault.detail else "")
    remedy = fault.remedy or "check tokens.chat_template and tokens.max_length"
    return f"{fault} (first {example}); {remedy}"


def read_token_shard(path: Path, settings_digest: str | None = None) -> TokenShard:
    """Read and verify a token shard.

    Raises UserError if it is damaged or contradicts itself; with `settings_digest` also if it was
    made under other settings or is another shard under this name.
    """
    tensors, manifest = load_tensors(path, KIND, settings_digest)
    if settings_digest is not None:
        manifest.require(path, KIND, settings_digest, part_of(path))
    try:
        shard = TokenShard(
            tensors["input_ids"],
            tensors["loss_mask"],
            tensors["doc_offsets"],
            json.loads(tensors["row_ids"].tobytes()),
            manifest,
        )
        valid = _is_consistent(shard)
    except NOT_OURS:
        valid = False
    if not valid:
        raise UserError(f"{path}: its tensors are not those of a token shard: {REMAKE}")
    return shard


def _is_consistent(shard: TokenShard) -> bool:
    """Whether the documents fill the shard and each has an id: readers rely on it, and a checksum
    does not ensure it."""
    ids, mask, offsets, names = shard.input_ids, shard.loss_mask, shard.doc_offsets, shard.row_ids
    types_match = ids.dtype == np.int32 and mask.dtype == np.uint8 and offsets.dtype == np.int64
    if not types_match or ids.ndim != 1 or ids.shape != mask.shape or offsets.ndim != 1:
        return False
    filled = len(offsets) > 0 and offsets[0] == 0 and offsets[-1] == len(ids)
    ordered = bool((offsets[1:] >= offsets[:-1]).all())  # a difference could overflow
    has_ids = isinstance(names, list) and len(names) == len(offsets) - 1
    return (
        filled
        and ordered
        and has_ids
        and all(isinstance(name, str) for name in names)
        and int(ids.min(initial=0)) >= 0
        and int(mask.max(initial=0)) <= 1
    )


def read_token_shards(paths: Iterable[str], settings_digest: str) -> Iterator[TokenShard]:
    """Shards one after another, so that memory does not grow with their number.

    Raises UserError as `read_token_shard` does.
    """
    return (read_token_shard(Path(path), settings_digest) for path in paths)


def token_manifests(paths: Iterable[str], settings_digest: str) -> list[Manifest]:
    """The manifests of shards, read from their headers alone."""
    return [read_manifest(Path(path), KIND, settings_digest) for path in paths]


def token_inputs(manifests: Iterable[Manifest]) -> dict[str, str]:
    """Content checksums of shards in order, as inputs for the manifest of a derived artefact."""
    return {f"tokens-{i}": manifest.content_sha256 for i, manifest in enumerate(manifests)}


def _joined(parts: list[np.ndarray], dtype: type[np.generic]) -> np.ndarray:
    return np.concatenate([np.empty(0, dtype), *parts])
