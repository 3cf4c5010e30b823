"""Capture: run the target over a token shard and keep the states that training reads.

Documents are sorted by length and run in batches of a token budget, so hardly any padding is
computed and none is stored. The budget is about speed; it decides neither what is stored nor
where.
"""

from __future__ import annotations

import logging
import time
from typing import Protocol

import numpy as np
import torch

from eagle3.features.codecs import STORED, decode, encode
from eagle3.target.reader import Head
from eagle3.tokens.needed import NeededStates, needed_states
from eagle3.tokens.shards import TokenShard

log = logging.getLogger(__name__)
HEAD_ROWS = 1024  # rows of full-vocabulary logits held at once


class Engine(Protocol):
    """What runs a target: `target.hf.HFTarget` does."""

    def states(self, input_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """aux [B, L, 3H] and post-norm last [B, L, H] of right-padded `input_ids` [B, L]."""
        ...


def capture(
    engine: Engine, head: Head, tokens: TokenShard, codec: str, batch_tokens: int
) -> dict[str, torch.Tensor]:
    """The tensors of a hidden-state shard, in the order of the token shard's documents.

    `head` is in the target's own dtype: its argmax is the token the target would emit.
    """
    needed = needed_states(tokens.loss_mask, tokens.doc_offsets)
    exact = Head(head.weight.float(), _float(head.bias), head.scale, head.softcap)
    total_aux, total_last = int(needed.aux_offsets[-1]), int(needed.last_offsets[-1])
    hidden = head.weight.shape[1]
    out = {
        "aux": torch.empty(total_aux, 3 * hidden, dtype=STORED[codec]),
        "last": torch.empty(total_last, hidden, dtype=STORED[codec]),
        "teacher_argmax": torch.empty(total_last, dtype=torch.int32),
        "teacher_lse": torch.empty(total_last, dtype=torch.float32),
    }
    started, done = time.monotonic(), 0
    for batch in token_batches(needed.kept, batch_tokens):
        aux, last = engine.states(_padded(tokens, needed, batch))
        for row, document in enumerate(batch.tolist()):
            _keep(out, needed, document, aux[row], last[row], head, exact, codec)
        done += int(needed.kept[batch].sum())
        rate = done / (time.monotonic() - started)
        log.info("%d of %d tokens, %.0f tokens/s", done, int(needed.kept.sum()), rate)
    return out


def token_batches(lengths: np.ndarray, budget: int) -> list[np.ndarray]:
    """Documents in batches of at most `budget` padded tokens, of similar length each.

    Documents of length 0 are left out; one that alone exceeds the budget is a batch of its own.
    """
    order = np.argsort(-lengths, kind="stable")
    order = order[lengths[order] > 0]
    found, start = [], 0
    while start < len(order):
        size = max(1, budget // int(lengths[order[start]]))
        found.append(order[start : start + size])
        start += size
    return found


def _padded(tokens: TokenShard, needed: NeededStates, batch: np.ndarray) -> torch.Tensor:
    """int64 [B, L]: the kept tokens of some documents, padded on the right with 0."""
    ids = torch.zeros(len(batch), int(needed.kept[batch].max()), dtype=torch.int64)
    for row, document in enumerate(batch.tolist()):
        start, length = int(tokens.doc_offsets[document]), int(needed.kept[document])
        ids[row, :length] = torch.from_numpy(tokens.input_ids[start : start + length].copy())
    return ids


def _keep(
    out: dict[str, torch.Tensor],
    needed: NeededStates,
    document: int,
    aux: torch.Tensor,  # [L, 3H]
    last: torch.Tensor,  # [L, H]
    head: Head,
    exact: Head,
    codec: str,
) -> None:
    """Store the needed rows of one document."""
    a, b = needed.aux_offsets[document : document + 2].tolist()
    c, d = needed.last_offsets[document : document + 2].tolist()
    out["aux"][a:b] = encode(aux[: b - a], codec)
    positions = torch.from_numpy(needed.last_positions[c:d]).to(last.device)
    own = last[positions]  # [R, H]
    stored = encode(own, codec)
    out["last"][c:d] = stored
    for first in range(0, d - c, HEAD_ROWS):
        rows = slice(first, min(first + HEAD_ROWS, d - c))
        into = slice(c + rows.start, c + rows.stop)
        out["teacher_argmax"][into] = head.logits(own[rows]).argmax(-1).int().cpu()
        # of the state as stored, so that a probability on the draft vocabulary never exceeds one
        logits = exact.logits(decode(stored[rows], torch.float32))
        out["teacher_lse"][into] = torch.logsumexp(logits, dim=-1).cpu()


def _float(tensor: torch.Tensor | None) -> torch.Tensor | None:
    return None if tensor is None else tensor.float()
