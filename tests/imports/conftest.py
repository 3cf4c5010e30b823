"""A tiny target with a chat template, and documents that it has been run over."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from eagle3.engines.hf import HFTarget
from tests.builders.models import VOCAB, save_model, save_tokenizer
from tests.builders.peers import Captured, captured
from tests.builders.shards import open_target

LAYERS = (1, 3, 4)
USER, ASSISTANT, END = 3, 4, 1  # tokens of the template


@pytest.fixture(scope="session")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_model(tmp_path_factory.mktemp("imports") / "target", "llama")
    save_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def engine(target: Path) -> HFTarget:
    return open_target(target)[0]


def chat(seed: int, turns: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Ids and mask as the template shows a chat: the mask covers each answer and its end."""
    random = np.random.default_rng(seed)
    ids: list[int] = []
    mask: list[int] = []
    for _ in range(turns):
        asked, answer = (random.integers(5, VOCAB, random.integers(3, 9)).tolist() for _ in "qa")
        ids += [USER, *asked, END, ASSISTANT, *answer, END]
        mask += [0] * (len(asked) + 3) + [1] * (len(answer) + 1)
    return np.array(ids), np.array(mask)


@pytest.fixture(scope="session")
def documents(engine: HFTarget) -> Callable[..., list[Captured]]:
    """Chats through the target; with padding, as SpecForge has it."""

    def make(count: int, padded: bool = False, first: int = 0) -> list[Captured]:
        return [
            captured(engine, number, *chat(number), padding=number % 3 * 5 if padded else 0)
            for number in range(first, first + count)
        ]

    return make
