"""The self-check of a shard: one document is run again by a plain forward pass and compared.

It covers everything between the model and the file: hooks, layer numbers, batches, padding, another
engine's kernels and ranks, encoding, and the position of each row. With backend hf the capturing
model is used again, so a split over ranks stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import cosine_similarity

from eagle3.engines.hf import HFTarget
from eagle3.errors import UserError
from eagle3.store.codecs import CODECS
from eagle3.store.reader import FeatureShard
from eagle3.target_model.reader import Head
from eagle3.target_model.rounding import NEARER, least_cosine
from eagle3.tokens.shards import TokenShard

# Rows whose teacher is compared with the target's own choice, and the share that has to be equal.
# Of a published model (SmolLM2-135M) 98 % are equal in bfloat16, 95 % with inputs rounded to eight
# bits, and 14 to 51 % without the final norm.
CHOICES, LEAST_EQUAL = 64, 0.75


def check_shard(
    path: Path | None,
    tokens: TokenShard,
    target: HFTarget,
    layers: Sequence[int],
    settings_digest: str | None = None,
    head: Head | None = None,
) -> dict[str, float]:
    """Median cosines of the sampled document's rows, for each layer and the last state.

    A layer's states have to be nearer to its output than to those of the layers around it. With a
    `head` the teacher's tokens are compared with those that the target itself would choose,
    which fails if `last` is not what the head reads, as before the final norm.

    Every rank runs the target; those that do not write (`path` None) compare nothing. Empty if the
    shard has no rows. Raises UserError if the states are not the target's.
    """
    document = sampled_document(tokens)
    if document is None:
        return {}
    ids = torch.from_numpy(tokens.kept_ids(document))
    outputs, last = target.every_state(ids)
    if path is None:
        return {}
    positions = torch.from_numpy(tokens.needed.taught(document))
    shard = FeatureShard(path, tokens, settings_digest)
    stored = StoredStates(shard, document, layers)
    # transformers does not return the last layer's own output, so it cannot be compared
    returned = [layer for layer in layers if layer + 1 < len(outputs)]
    cosines = {f"layer {layer}": stored.aux_cosine(layer, outputs[layer + 1]) for layer in returned}
    cosines["last"] = stored.last_cosine(last[positions.to(last.device)])
    least = least_cosine(target.body.config)
    where = f"{path}: states of document {tokens.row_ids[document]}"
    for name, value in cosines.items():
        if not value > least:  # or NaN
            raise UserError(
                f"{where} differ from a plain forward pass of the target: cosine {value:.4f} for "
                f"{name}, at least {least:.4f} expected; the capture engine does not run the same "
                "model, try hidden_states.backend hf"
            )
    for layer in returned:
        away = 1 - cosines[f"layer {layer}"]
        for other in (layer - 1, layer + 1):
            if not 0 <= other + 1 < len(outputs):
                continue
            if 1 - stored.aux_cosine(layer, outputs[other + 1]) < NEARER * NEARER * away:
                raise UserError(
                    f"{where} differ from a plain forward pass of the target: what should be the "
                    f"output of layer {layer} is that of layer {other}; the capture engine counts "
                    "layers another way, try hidden_states.backend hf"
                )
    if head is not None:
        teacher = shard.read(document)["teacher_argmax"]
        _check_choices(path, target, ids, positions, teacher, head)
    return cosines


def _check_choices(
    path: Path,
    target: HFTarget,
    ids: torch.Tensor,  # int64 [L]
    positions: torch.Tensor,  # int64 [R], ascending
    teacher: torch.Tensor,  # int32 [R]
    head: Head,
) -> None:
    """Raise UserError unless the stored teacher chooses what the target itself does."""
    first = int(positions[0])
    prefix = ids[: first + CHOICES]
    choices = target.own_choices(prefix, len(prefix) - first, head)
    if choices is None:
        return
    rows = positions < len(prefix)
    equal = (choices.cpu()[positions[rows] - first] == teacher[rows]).double().mean().item()
    if equal < LEAST_EQUAL:
        raise UserError(
            f"{path}: the stored states choose the target's own next token in {equal:.0%} of "
            f"{int(rows.sum())} rows, at least {LEAST_EQUAL:.0%} expected: `last` is not what the "
            "target's head reads; check target.lm_head_key, or report the model"
        )


def sampled_document(tokens: TokenShard) -> int | None:
    """A document with rows of last, chosen by the tokens' checksum; None if there is none."""
    candidates = np.flatnonzero(np.diff(tokens.needed.last_offsets))
    if not len(candidates):
        return None
    return int(candidates[int(tokens.manifest.content_sha256[:8], 16) % len(candidates)])


class StoredStates:
    """A document's states in a shard, compared with those of a plain pass."""

    def __init__(self, shard: FeatureShard, document: int, layers: Sequence[int]) -> None:
        rows = shard.read(document)
        self.codec = CODECS[shard.layout.codec]
        aux = rows["aux"].unflatten(1, (len(layers), -1))  # [T, C, H]
        self.aux = dict(zip(layers, aux.float().unbind(1), strict=True))
        self.last = rows["last"].float()  # [R, H]

    def aux_cosine(self, layer: int, plain: torch.Tensor) -> float:
        """Of the stored output of a layer with states [L, H]."""
        stored = self.aux[layer]
        return self._cosine(stored, plain[: len(stored)])

    def last_cosine(self, plain: torch.Tensor) -> float:
        """Of the stored last states with states [R, H]."""
        return self._cosine(self.last, plain)

    def _cosine(self, stored: torch.Tensor, plain: torch.Tensor) -> float:
        """Median over the rows, without what the codec itself loses: its grid moves nearly equal
        numbers apart, so it is not put on both sides."""
        through = self.codec.decode(self.codec.encode(plain[:, None]), 1).float().cpu()
        plain = plain.float().cpu()
        lost = 1 - cosine_similarity(through, plain, dim=-1)
        return float((cosine_similarity(stored, plain, dim=-1) + lost).median())
