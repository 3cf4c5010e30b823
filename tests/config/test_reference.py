"""The page of all keys is the one that the models give."""

from __future__ import annotations

from pathlib import Path

import pytest

from docs.configuration_page import allowed, page
from eagle3.config.configuration import Config
from tests.config.test_configuration import keys

ROOT = Path(__file__).resolve().parents[2]
FIELDS = dict(keys())


def test_the_page_is_up_to_date() -> None:
    written = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert written == page(), "run: python -m docs.configuration_page > docs/configuration.md"


def test_every_key_is_on_the_page() -> None:
    lines = page().splitlines()
    for key in FIELDS:
        name = key.rpartition(".")[2]
        assert f"## {key}" in lines or any(line.startswith(f"| `{name}` |") for line in lines), key
    assert len([line for line in lines if line.startswith("## ")]) >= len(Config.model_fields) - 1


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("train.epochs", "integer ≥ 1"),
        ("train.step_decay", "number > 0, ≤ 1"),
        ("train.optimizer", "`adamw`, `muon`"),
        ("draft.head_dim", "integer ≥ 2 or null"),
        ("hidden_states.aux_layers", "list of 1 to 16: integer ≥ 0 or null"),
        ("embedded_target.hidden_size", "integer ≥ 16, a multiple of 16"),
        ("dataset.source", "string or list of one or more: string or mapping"),
        ("resources.capture.sglang_arguments", "mapping"),
        ("evaluation.prompts", "list of one or more: mapping or null"),
    ],
)
def test_types_and_ranges_in_words(key: str, words: str) -> None:
    assert allowed(FIELDS[key]) == words
