"""A key that stands twice in a file is refused by its name."""

from __future__ import annotations

from pathlib import Path

import pytest

from eagle3.config.files import check_doubled_keys
from eagle3.errors import UserError


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("train: {}\nvocab: {}\ntrain: {}\n", "has train twice, in lines 1 and 3: keep one"),
        ("train:\n  seed: 1\n  epochs: 2\n  seed: 3\n", "has train.seed twice, in lines 2 and 4"),
        ('{"train": {"seed": 1, "seed": 2}}', "has train.seed twice, in lines 1 and 1: keep one"),
        ("dataset:\n  source:\n  - {source: a, source: b}\n", "has dataset.source.0.source twice"),
        ("a: 1\nb: 2\nb: 3\na: 4\n", "a twice, in lines 1 and 4; b twice, in lines 2 and 3"),
        ("run: a\n'run': b\n", "has run twice"),
    ],
)
def test_a_doubled_key_is_named_with_its_lines(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        check_doubled_keys(path)
    assert str(caught.value).startswith(f"config: {path} has ")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "train: {seed: 1}\ndataset: {seed: 1}\n",
        "a: &x {seed: 1}\nb: *x\nc: {<<: *x, seed: 2}\n",
        "a: &x [*x, *x]\n",  # inside itself
        "train: [",  # whoever reads it says so
        "- {a: 1}\n- {a: 2}\n",
        "a: \udcff\n",  # no UTF-8
    ],
)
def test_a_file_without_one_passes(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text, errors="surrogateescape")
    check_doubled_keys(path)


def test_a_file_nested_without_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("[" * 600)
    with pytest.raises(UserError, match="is nested too deeply"):
        check_doubled_keys(path)
