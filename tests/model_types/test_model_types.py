"""docs/targets.md against the work itself: a few types in every run of the tests, all in
`make test-types`."""

from __future__ import annotations

import pytest

from tests.builders.target_types import causal_types
from tests.model_types.page import PAGE, page, parsed, row_of

WRITTEN = parsed(PAGE.read_text(encoding="utf-8"))
# attention of every kind, experts, recurrences, several streams, other names, a key set by hand,
# and a refusal that only the files can give
FEW = (
    *("gemma3", "gemma4_text", "deepseek_v3", "deepseek_v4", "glm4_moe", "gpt2", "mamba2"),
    *("qwen3_5_moe_text", "falcon_h1", "modernbert-decoder"),
)
LEAST_TRAINED = 135


def same_as_written(kind: str) -> None:
    command = "python -m tests.model_types.page > docs/targets.md"
    assert row_of(kind) == WRITTEN[kind], command


@pytest.mark.parametrize("kind", FEW)
def test_a_few_types_do_what_the_page_says(kind: str) -> None:
    same_as_written(kind)


@pytest.mark.long
@pytest.mark.parametrize("kind", sorted(set(causal_types()) - set(FEW)))
def test_every_type_does_what_the_page_says(kind: str) -> None:
    same_as_written(kind)


def test_the_page_has_every_type_and_is_written_from_its_rows() -> None:
    assert list(WRITTEN) == causal_types()
    assert page(WRITTEN) == PAGE.read_text(encoding="utf-8")


def test_nearly_all_decoders_are_trained() -> None:
    refused = {kind: row.refusal for kind, row in WRITTEN.items() if row.refusal}
    assert len(WRITTEN) - len(refused) >= LEAST_TRAINED
    for kind, sentence in refused.items():
        assert len(sentence) < 250 and "Traceback" not in sentence, kind
