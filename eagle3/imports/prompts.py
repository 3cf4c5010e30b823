"""Prompts from imported documents, which have tokens alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from eagle3.data.prompts import Question
from eagle3.imports.masks import runs_of
from eagle3.tokens.shards import TokenShard


def prompts_of(shards: Iterable[TokenShard]) -> Iterator[Question]:
    """The tokens of each document before its last answer."""
    for shard in shards:
        for document, name in enumerate(shard.row_ids):
            start, stop = shard.doc_offsets[document : document + 2].tolist()
            answers = runs_of(shard.loss_mask[start:stop])
            if answers and answers[-1][0]:
                tokens = shard.input_ids[start : start + answers[-1][0]].tolist()
                yield Question(name, [], tokens=tokens)
