"""Tiny targets on disk, for every room."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import settings

from tests.builders.models import save_model

torch.set_num_threads(1)
settings.register_profile("busy machine", deadline=None)
settings.load_profile("busy machine")
RULES = Path(__file__).parent / "rules"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole workflows first: the longest file last would leave one of two processes alone."""
    items.sort(key=lambda item: not item.path.is_relative_to(RULES))


@pytest.fixture(scope="session")
def targets(tmp_path_factory):
    """Directories of tiny random models by name."""
    root = tmp_path_factory.mktemp("targets")
    return {
        "llama": save_model(root / "llama", "llama"),
        "tied": save_model(root / "tied", "llama", tie_word_embeddings=True),
        "sharded": save_model(root / "sharded", "llama", shards=True),
        "qwen3": save_model(root / "qwen3", "qwen3"),
        "qwen3_moe": save_model(root / "qwen3_moe", "qwen3_moe"),
    }
