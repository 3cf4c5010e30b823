"""A target, a draft that has learned some of its answers, and what our own decoding says of them:
what real engines are compared with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eagle3.engines.hf import HFTarget
from eagle3.evaluation.decoding import Decoded
from eagle3.export.exported import Verifier
from eagle3.export.load import load_draft
from eagle3.target_model.config import load_config
from eagle3.target_model.reader import Head
from tests.builders.exports import write
from tests.builders.models import COMMON, VOCAB
from tests.builders.shards import TRAIN, changed, open_target, train_draft, training_set
from tests.evaluation.chain import DraftChain, decode_plain, decode_speculative

NEW, EOS = 32, COMMON["eos_token_id"]
PROMPTS = [np.random.default_rng(i).integers(3, VOCAB, 4 + 2 * i).tolist() for i in range(12)]
CUSTOM = [0, 3, 6]  # layers that are not the default
EAGLE31 = {"fc_norm": True, "norm_output": True}
SCHOOLING = changed(
    TRAIN, epochs=60, epochs_per_stage=60, learning_rate=1e-2, max_grad_norm=5.0, ttt_steps=6
)


@dataclass(frozen=True, eq=False)
class Served:
    """A target and a draft in some formats."""

    target: Path
    exports: Mapping[str, Path]  # by format
    engine: HFTarget
    head: Head
    embedding: torch.Tensor
    answers: list[list[int]]  # of the target alone to `PROMPTS`

    def ours(self, prompt: Sequence[int], steps: int, stop: Iterable[int] = ()) -> Decoded:
        """Chain decoding with the draft as it is read back from the first export."""
        return _ours(self, tuple(prompt), steps, frozenset(stop))

    def committed(self, steps: int, stop: Iterable[int] = ()) -> list[list[int]]:
        """Tokens that each verify pass commits, of every prompt."""
        return [self.ours(prompt, steps, stop).committed for prompt in PROMPTS]


@cache
def _ours(made: Served, prompt: tuple[int, ...], steps: int, stop: frozenset[int]) -> Decoded:
    draft, mapping = load_draft(next(iter(made.exports.values())))
    chain = DraftChain(draft, made.embedding, torch.from_numpy(mapping.target_ids))
    return decode_speculative(made.engine, made.head, chain, [*prompt], NEW, set(stop), steps)


def served(
    folder: Path,
    target: Path,
    formats: Sequence[str],
    layers: list[int] | None = None,
    switches: dict[str, Any] | None = None,
    draft_vocab: int = 64,
) -> Served:
    """Train a draft on the target's own answers to half of the prompts; export it in float32."""
    engine, head = open_target(target, layers=layers)
    texts, answers = [], []
    for prompt in PROMPTS:
        answer = decode_plain(engine, head, prompt, NEW, set()).tokens
        texts.append((prompt + answer, [0] * len(prompt) + [1] * len(answer)))
        answers.append(answer)
    made = training_set(
        folder,
        target,
        SCHOOLING,
        draft_vocab=draft_vocab,
        texts=texts[::2],
        layers=layers,
        switches=switches,
    )
    draft, parts = train_draft(made, folder)
    verifier = Verifier(str(target), tuple(load_config(target).architectures), 3)
    exports = {}
    for form in formats:
        exports[form] = folder / form
        weights = draft.state_dict()
        write(
            form, exports[form], weights, made.mapping, draft.config, "float32", verifier=verifier
        )
    return Served(target, exports, engine, head, parts.embedding, answers)


def telling(lengths: Sequence[int], steps: int) -> float:
    """The mean of committed tokens, of a draft that proves something: one that is never right, or
    always, would not."""
    mean = float(np.mean(lengths))
    assert 1.3 < mean < steps + 0.9 and max(lengths) == steps + 1
    return mean
