"""The draft vocabulary: the most frequent supervised tokens of the target's vocabulary.

    d2t  int64 [V_draft]  offsets: target id = i + d2t[i], ids ascending
    t2d  bool  [V]        membership

End-of-turn and other control tokens that are ever supervised are always included: a draft that
cannot propose them fails at the end of every answer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eagle3.errors import UserError
from eagle3.files.artifact import REMAKE, Manifest
from eagle3.files.tensor_file import load_tensors

KIND = "vocab"


@dataclass(frozen=True)
class VocabMapping:
    """Mapping between draft and target vocabulary."""

    d2t: np.ndarray  # int64 [V_draft], offsets
    t2d: np.ndarray  # bool [V], membership

    @property
    def target_ids(self) -> np.ndarray:
        """int64 [V_draft]: target id of each draft id, ascending."""
        return self.d2t + np.arange(len(self.d2t))

    @property
    def draft_ids(self) -> np.ndarray:
        """int64 [V]: draft id of each target id, -1 where the draft has none."""
        table = np.full(len(self.t2d), -1, dtype=np.int64)
        table[self.target_ids] = np.arange(len(self.d2t))
        return table


def count_supervised(
    shards: Iterable[tuple[np.ndarray, np.ndarray]], vocab_size: int
) -> np.ndarray:
    """int64 [V]: how often each token is supervised, over (input_ids, loss_mask) pairs.

    Raises UserError if a token id is outside the vocabulary.
    """
    total = np.zeros(vocab_size, dtype=np.int64)
    for input_ids, loss_mask in shards:
        largest = int(input_ids.max(initial=0))
        if largest >= vocab_size:
            raise UserError(
                f"target.model: token id {largest} is outside its vocabulary of {vocab_size}; "
                "the tokenizer does not belong to the model"
            )
        total += np.bincount(input_ids[loss_mask == 1], minlength=vocab_size)
    return total


def build_mapping(counts: np.ndarray, size: int, forced: Iterable[int]) -> VocabMapping:
    """The `size` most frequent tokens of `counts` [V]; ties go to the lower id.

    `forced` ids come first if they were ever supervised. If too few distinct tokens were seen,
    the lowest unused ids fill the rest. Raises UserError if `size` does not fit.
    """
    check_size(size, len(counts))
    priority = counts.astype(np.float64)
    # an id outside the vocabulary was never supervised
    required = np.array([i for i in sorted(set(forced)) if i < len(counts)], dtype=np.int64)
    required = required[counts[required] > 0]
    if len(required) > size:
        raise UserError(
            f"vocab.draft_vocab_size is {size}, smaller than the {len(required)} control tokens "
            "that are supervised"
        )
    priority[required] = np.inf
    # a stable sort of the negated counts keeps ids ascending within a tie
    selected = np.sort(np.argsort(-priority, kind="stable")[:size])
    t2d = np.zeros(len(counts), dtype=bool)
    t2d[selected] = True
    return VocabMapping(selected - np.arange(size), t2d)


def check_size(size: int, vocab_size: int) -> None:
    """Raise UserError if a draft vocabulary of `size` does not fit into the target's."""
    if size > vocab_size:
        raise UserError(
            f"vocab.draft_vocab_size is {size}, larger than the target's vocabulary of "
            f"{vocab_size}; use at most {vocab_size}"
        )


def coverage(counts: np.ndarray, mapping: VocabMapping) -> float:
    """Share of supervised tokens that the draft can propose."""
    return float(counts[mapping.t2d].sum() / max(counts.sum(), 1))


def coverage_curve(counts: np.ndarray, points: int = 200) -> tuple[list[int], list[float]]:
    """Coverage as a function of the draft vocabulary's size, at `points` sizes."""
    share = np.cumsum(np.sort(counts)[::-1]) / max(counts.sum(), 1)
    sizes = np.unique(np.linspace(1, len(counts), min(points, len(counts))).astype(int))
    return sizes.tolist(), share[sizes - 1].tolist()


def read_mapping(path: Path, settings_digest: str | None = None) -> tuple[VocabMapping, Manifest]:
    """Read and verify a mapping file.

    Raises UserError if it is damaged, of other settings, or its two halves name other tokens.
    """
    tensors, manifest = load_tensors(path, KIND, settings_digest)
    d2t, t2d = tensors.get("d2t"), tensors.get("t2d")
    if (
        d2t is None
        or t2d is None
        or (d2t.dtype, t2d.dtype) != (np.int64, np.bool_)
        or d2t.ndim != 1
        or t2d.ndim != 1
        or not np.array_equal(d2t + np.arange(len(d2t)), np.flatnonzero(t2d))
    ):
        raise UserError(f"{path}: d2t and t2d are not one vocabulary mapping: {REMAKE}")
    return VocabMapping(d2t, t2d), manifest


def check_of_target(mapping: VocabMapping, vocab_size: int) -> None:
    """Raise UserError if the mapping was made for another vocabulary than the target's."""
    if len(mapping.t2d) != vocab_size:
        raise UserError(
            f"vocab/mapping.safetensors is for a vocabulary of {len(mapping.t2d)} tokens, the "
            f"target has {vocab_size}: it was made with another target: {REMAKE}"
        )
