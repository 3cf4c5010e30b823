"""The order of imported documents and which are held out: functions of seed and number alone, as
for conversations of seed and id."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from eagle3.data.rows import check_enough, check_held_out, is_held_out, row_hash
from eagle3.imports.listing import list_files
from eagle3.run import StatesFrom

if TYPE_CHECKING:
    from eagle3.config.dataset import Dataset


def ordered(numbers: np.ndarray, seed: int, eval_fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """int64 [N] indices of the documents in order, and bool [N] in that order: held out."""
    keys = [row_hash(seed, str(number)) for number in numbers.tolist()]
    order = np.argsort(np.array(keys, dtype="S32"), kind="stable")
    held_out = np.array([is_held_out(key, eval_fraction) for key in keys], dtype=bool)
    return order, held_out[order]


def check_counts(held_out: np.ndarray, num_samples: int) -> None:
    """Raise UserError if there are fewer documents than the run asks for."""
    count = int(held_out.sum())
    check_enough(len(held_out) - count, num_samples)
    check_held_out(count)


def check_documents(source: StatesFrom, dataset: Dataset) -> None:
    """Raise UserError if the files of a source are too few for what the configuration asks for."""
    listing = list_files(source.kind, Path(source.place))
    _, held_out = ordered(listing.numbers, dataset.seed, dataset.eval_fraction)
    check_counts(held_out, dataset.num_samples)
