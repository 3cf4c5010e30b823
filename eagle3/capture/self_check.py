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
from eagle3.target_model.layers import layer_count
from eagle3.target_model.reader import Head
from eagle3.tokens.shards import TokenShard

LEAST = 0.999  # median cosine below which a capture is refused
# rows whose teacher is compared with the target's own choice, and the share that has to be equal:
# in half precision some near-ties differ, under a wrong norm nearly all rows do
CHOICES, LEAST_EQUAL = 64, 0.9


def check_shard(
    path: Path | None,
    tokens: TokenShard,
    target: HFTarget,
    layers: Sequence[int],
    settings_digest: str | None = None,
    head: Head | None = None,
) -> dict[str, float]:
    """Median cosines of the sampled document's rows, for each layer and the last state.

    With a `head`, the teacher's tokens are compared with those that the target itself would choose,
    which fails if `last` is not what the head reads, such as the state before the final norm.

    Every rank runs the target; those that do not write (`path` None) compare nothing. Empty if the
    shard has no rows. Raises UserError if the states are not the target's.
    """
    document = sampled_document(tokens)
    if document is None:
        return {}
    ids = torch.from_numpy(tokens.kept_ids(document))
    aux, last = target.plain_states(ids)
    if path is None:
        return {}
    positions = torch.from_numpy(tokens.needed.taught(document))
    expected_last = last[positions.to(last.device)]
    shard = FeatureShard(path, tokens, settings_digest)
    cosines = _cosines(shard, document, aux[: len(ids) - 2], expected_last, layers)
    # transformers does not return the last layer's own output, so it cannot be compared
    cosines.pop(f"layer {layer_count(target.body.config) - 1}", None)
    failed = {name: value for name, value in cosines.items() if not value > LEAST}  # or NaN
    for name, value in failed.items():
        raise UserError(
            f"{path}: states of document {tokens.row_ids[document]} differ from a plain forward "
            f"pass of the target: cosine {value:.4f} for {name}, at least {LEAST} expected; the "
            "capture engine does not run the same model, try hidden_states.backend hf"
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


def _cosines(
    shard: FeatureShard,
    document: int,
    aux: torch.Tensor,  # [T, C H]
    last: torch.Tensor,  # [R, H]
    layers: Sequence[int],
) -> dict[str, float]:
    """Median cosine between stored rows and those of a plain pass, without the codec's own loss.
    Encoding both would not do: the codec's grid moves nearly equal numbers apart."""
    codec, stored = CODECS[shard.layout.codec], shard.read(document)
    cosines: dict[str, float] = {}
    by_layer = [f"layer {layer}" for layer in layers]
    for rows, name, names in ((aux, "aux", by_layer), (last, "last", ["last"])):
        chunks = len(names)
        plain = rows.unflatten(1, (chunks, -1))  # [N, C, H]
        decoded = codec.decode(codec.encode(plain), chunks).unflatten(1, (chunks, -1))
        plain, captured = plain.float().cpu(), stored[name].unflatten(1, (chunks, -1)).float()
        loss = 1 - cosine_similarity(decoded.float().cpu(), plain, dim=-1)
        medians = (cosine_similarity(captured, plain, dim=-1) + loss).median(dim=0).values  # [C]
        cosines |= dict(zip(names, medians.tolist(), strict=True))
    return cosines
