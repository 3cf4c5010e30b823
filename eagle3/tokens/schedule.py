"""The schedule: how many steps each stage takes. Training reads it; nothing in it is about speed.

The packs are not stored: they are a function of document lengths, `pack_tokens`, seed and epoch
(`packing.pack_documents`), and for a million documents and ten epochs would be larger than the
tokens. The schedule holds their digest, which training checks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from eagle3.errors import UserError
from eagle3.tokens.packing import batches, pack_documents
from eagle3.tokens.shards import TokenShard
from eagle3.tokens.stages import Stages

if TYPE_CHECKING:  # jobs that only read the schedule start without pydantic
    from eagle3.config.train import Train

KIND = "schedule"
# bounds of the supervised share in chat data: below, masks miss answers; above, they cover prompts
LEAST_SUPERVISED, MOST_SUPERVISED = 0.001, 0.9995


def supervised_share(counts: Sequence[Mapping[str, int]]) -> float:
    """Share of tokens with a loss, from the counts in the shards' manifests.

    Raises UserError if it is outside the range of chat data.
    """
    tokens = sum(shard["tokens"] for shard in counts)
    share = sum(shard["supervised"] for shard in counts) / max(tokens, 1)
    if tokens and not LEAST_SUPERVISED <= share <= MOST_SUPERVISED:
        raise UserError(
            f"{share:.2%} of {tokens} tokens are supervised, outside of {LEAST_SUPERVISED:.1%} to "
            f"{MOST_SUPERVISED:.2%}: look at them with `eagle3 masks`, then check "
            "tokens.chat_template and tokens.max_length"
        )
    return share


@dataclass(frozen=True)
class Documents:
    """What packing and normalisation need of all documents of some shards, in order."""

    lengths: np.ndarray  # int64 [D], tokens kept; 0 for a document without a trainable row
    rows: np.ndarray  # int64 [D], |A_0|: rows with a loss at step 0
    shard_offsets: np.ndarray  # int64 [S + 1], first document of each shard

    @classmethod
    def of(cls, shards: Iterable[TokenShard]) -> Documents:
        lengths, rows = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        counts = [0]
        for shard in shards:
            # |A_0| equals the rows of `last`: both count positions p >= 1 with m_p = m_{p+1} = 1
            trainable = np.diff(shard.needed.last_offsets)
            rows.append(trainable)
            counts.append(len(trainable))
            lengths.append(np.where(trainable > 0, shard.needed.kept, 0))
        return cls(np.concatenate(lengths), np.concatenate(rows), np.cumsum(counts))

    def of_shards(self, shards: range) -> Documents:
        """Documents of consecutive shards, the first at index 0."""
        offsets = self.shard_offsets[shards.start : shards.stop + 1]
        window = slice(offsets[0], offsets[-1])
        return Documents(self.lengths[window], self.rows[window], offsets - offsets[0])


def build_schedule(documents: Documents, train: Train, stages: Stages) -> dict[str, Any]:
    """The schedule of a run over all its documents.

    Raises UserError if there is nothing to train on or a document does not fit into a pack.
    """
    longest = int(documents.lengths.max(initial=0))
    if longest == 0:
        raise UserError(
            "no document has two supervised tokens in a row, so there is nothing to train on; "
            "check tokens.max_length, tokens.chat_template and what the token shards dropped"
        )
    if longest > train.pack_tokens:
        raise UserError(
            f"train.pack_tokens is {train.pack_tokens} but a document has {longest} tokens; "
            f"raise it to at least {longest}"
        )
    entries, first_step, all_steps = [], 0, 0
    for stage in stages.numbers:
        window, epochs = stages.shards_of(stage), list(stages.epochs_of(stage))
        plans = stage_packs(documents.of_shards(window), train, epochs)
        planned = [batch for packs in plans for batch in batches(packs, train.packs_per_batch)]
        all_steps += len(planned)
        if train.max_steps is not None:
            planned = planned[: train.max_steps - first_step]
        entries.append(
            {
                "stage": stage,
                "shards": [window.start, window.stop],
                "epochs": epochs,
                "packs": sum(map(len, planned)),
                "steps": len(planned),
                "first_step": first_step,
                "packs_digest": packs_digest(plans),
            }
        )
        first_step += len(planned)
    return {
        "documents": int((documents.lengths > 0).sum()),
        "documents_without_rows": int((documents.lengths == 0).sum()),
        "tokens": int(documents.lengths.sum()),
        "rows": int(documents.rows.sum()),
        "total_steps": first_step,
        "all_steps": all_steps,  # of all epochs, even if train.max_steps ends the run earlier
        "stages": entries,
    }


def stage_packs(
    documents: Documents, train: Train, epochs: Sequence[int]
) -> list[list[np.ndarray]]:
    """Packs of a stage's documents, one list for each of its epochs."""
    return [
        pack_documents(documents.lengths, train.pack_tokens, train.seed, epoch) for epoch in epochs
    ]


def packs_digest(plans: list[list[np.ndarray]]) -> str:
    """Digest of the packs of several epochs."""
    total = hashlib.sha256()
    for packs in plans:
        for pack in packs:
            total.update(pack.tobytes() + b"/")
    return total.hexdigest()[:16]
