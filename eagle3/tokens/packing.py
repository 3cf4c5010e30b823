"""Packs and batches: which documents are trained together, as a function of lengths and seed.

A pack is what one forward pass holds: documents side by side, at most `pack_tokens` tokens;
attention and TTT shifts never cross from one document to the next. A batch is `packs_per_batch`
packs: one optimiser step, however many ranks share it.
"""

from __future__ import annotations

import numpy as np

WINDOW = 2048  # documents sorted by length together: fills packs and keeps the order random


def pack_documents(
    lengths: np.ndarray, pack_tokens: int, seed: int, epoch: int
) -> list[np.ndarray]:
    """Packs of document numbers for one epoch.

    `lengths` [N] in tokens; a document of length 0 is left out. Deterministic in its arguments.
    """
    order = np.random.default_rng([seed, epoch]).permutation(np.flatnonzero(lengths > 0))
    packs: list[list[int]] = []
    for start in range(0, len(order), WINDOW):
        window = order[start : start + WINDOW]
        longest_first = window[np.argsort(-lengths[window], kind="stable")]
        packs.extend(_first_fit(longest_first, lengths, pack_tokens))
    shuffled = np.random.default_rng([seed, epoch, 1]).permutation(len(packs))
    return [np.array(packs[index], dtype=np.int64) for index in shuffled]


def _first_fit(documents: np.ndarray, lengths: np.ndarray, capacity: int) -> list[list[int]]:
    """Put each document into the first pack that has room."""
    packs: list[list[int]] = []
    room = np.empty(0, dtype=np.int64)
    for document in documents.tolist():
        fits = np.flatnonzero(room >= lengths[document])
        if len(fits):
            packs[fits[0]].append(document)
            room[fits[0]] -= lengths[document]
        else:
            packs.append([document])
            room = np.append(room, capacity - lengths[document])
    return packs


def batches(packs: list[np.ndarray], packs_per_batch: int) -> list[list[np.ndarray]]:
    """Consecutive packs grouped into optimiser steps; the last batch may be smaller."""
    return [packs[i : i + packs_per_batch] for i in range(0, len(packs), packs_per_batch)]
