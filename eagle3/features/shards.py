"""Hidden-state shards: what training reads instead of running the target.

    aux             [T, 3H]        low, mid and high layer, concatenated
    last            [R, H]         post-norm state, at the rows whose teacher is used
    teacher_argmax  int32 [R]      from the target's own logits
    teacher_lse     float32 [R]    log-sum-exp over the full vocabulary, of the state as stored
    crc32           int64 [D]      of each document's rows, checked whenever they are read

The layout of documents inside the file is not stored: it follows from the token shard
(`tokens.needed`), whose checksum the manifest holds. Token ids and masks are not repeated.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from eagle3.artifact import REMAKE, Manifest, Settings
from eagle3.errors import UserError
from eagle3.tensorfile import open_tensors, read_manifest, save_tensors
from eagle3.tokens.needed import NeededStates, needed_states
from eagle3.tokens.shards import TokenShard

KIND = "hidden_states"
NAMES = ("aux", "last", "teacher_argmax", "teacher_lse")
CHECKED_ROWS = 4096  # rows tested for being finite at once: the test needs memory of its own


@dataclass(frozen=True)
class DocumentStates:
    """States of one document, as stored."""

    aux: torch.Tensor  # [e - 1, 3H]
    last: torch.Tensor  # [R, H]
    teacher_argmax: torch.Tensor  # int32 [R]
    teacher_lse: torch.Tensor  # float32 [R]


def write_feature_shard(
    path: Path, states: Mapping[str, torch.Tensor], tokens: TokenShard, settings: Settings
) -> Manifest:
    """Write a shard after checking that there are as many rows as are needed, all finite.

    Raises UserError on a wrong count or a state that is not finite.
    """
    needed = needed_states(tokens.loss_mask, tokens.doc_offsets)
    expected = {"aux": int(needed.aux_offsets[-1]), "last": int(needed.last_offsets[-1])}
    for name in NAMES:
        count = expected["aux" if name == "aux" else "last"]
        if len(states[name]) != count:
            raise UserError(f"{path}: {len(states[name])} rows of {name} captured, {count} needed")
        bad = _not_finite(states[name])
        if len(bad):
            raise UserError(
                f"{path}: {len(bad)} of {count} rows of {name} are not finite (first: row "
                f"{int(bad[0])}); the target overflows in its dtype, try target.dtype bfloat16 or "
                "float32"
            )
    counts = {"documents": len(tokens), **expected}
    inputs = {"tokens": tokens.manifest.content_sha256}
    manifest = Manifest.of(KIND, settings, inputs, counts)
    tensors = {name: states[name].contiguous() for name in NAMES}
    crcs = [_crc32(_document(tensors, needed, document)) for document in range(len(tokens))]
    tensors["crc32"] = torch.tensor(crcs, dtype=torch.int64)
    return save_tensors(path, tensors, manifest)


def _document(tensors: Mapping[str, Any], needed: NeededStates, document: int) -> DocumentStates:
    """The rows of one document, from whole tensors or from slices of a file."""
    a, b = needed.aux_offsets[document : document + 2].tolist()
    c, d = needed.last_offsets[document : document + 2].tolist()
    return DocumentStates(
        tensors["aux"][a:b],
        tensors["last"][c:d],
        tensors["teacher_argmax"][c:d],
        tensors["teacher_lse"][c:d],
    )


def _crc32(states: DocumentStates) -> int:
    """CRC-32 of a document's bytes."""
    found = 0
    for field in fields(states):
        rows = getattr(states, field.name)
        found = zlib.crc32(rows.reshape(-1).view(torch.uint8).numpy().data, found)
    return found


def _not_finite(states: torch.Tensor) -> torch.Tensor:
    """int64: rows of `states` [N, ...] that hold a NaN or an infinity."""
    parts = states.reshape(len(states), -1).split(CHECKED_ROWS) if len(states) else ()
    found = [~torch.isfinite(part).all(dim=-1) for part in parts]
    return torch.cat(found).nonzero().flatten() if found else torch.empty(0, dtype=torch.int64)


class FeatureShard:
    """Memory-mapped random access to the documents of a shard."""

    def __init__(self, path: Path, tokens: TokenShard, settings_digest: str | None = None) -> None:
        """Raises UserError if the file is damaged, of other settings, or of other tokens."""
        manifest = read_manifest(path, KIND, settings_digest)
        if manifest.inputs.get("tokens") != tokens.manifest.content_sha256:
            raise UserError(f"{path}: was captured from other tokens: {REMAKE}")
        self.path = path
        self.needed = needed_states(tokens.loss_mask, tokens.doc_offsets)
        handle = open_tensors(path, "pt")
        missing = sorted({*NAMES, "crc32"} - set(handle.keys()))
        if missing:
            raise UserError(f"{path}: holds no {', '.join(missing)}: {REMAKE}")
        self._slices = {name: handle.get_slice(name) for name in NAMES}
        self._crc32 = handle.get_tensor("crc32")
        self._handle = handle
        rows = {name: self._slices[name].get_shape()[0] for name in NAMES}
        aux, last = int(self.needed.aux_offsets[-1]), int(self.needed.last_offsets[-1])
        if rows != {"aux": aux, "last": last, "teacher_argmax": last, "teacher_lse": last}:
            raise UserError(
                f"{path}: holds {rows} rows, its tokens ask for {aux} of aux and {last} of the "
                f"others: {REMAKE}"
            )

    def read(self, document: int) -> DocumentStates:
        """States of one document, still in the stored type.

        Raises UserError if they are not what was written.
        """
        states = _document(self._slices, self.needed, document)
        if _crc32(states) != int(self._crc32[document]):
            raise UserError(
                f"{self.path}: document {document} does not match its checksum: {REMAKE}"
            )
        return states
