"""Files of torch.save: their tensors, and nothing that would be run."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from eagle3.errors import UserError
from eagle3.files.torch_file import load_torch_file
from tests.builders.damage import budget, damaged, ends_well

TENSORS = {
    "a": torch.arange(6.0).view(2, 3),
    "b": torch.ones(3, dtype=torch.bfloat16),
    "c": torch.tensor([1, 2]),
    "d": torch.tensor([True]),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("torch") / "whole.bin"
    torch.save(TENSORS, path)
    return path


def test_tensors_come_back_as_they_were_saved(tmp_path: Path) -> None:
    shared = TENSORS | {"view": TENSORS["a"].T}
    torch.save(shared, tmp_path / "x.bin")
    result = load_torch_file(tmp_path / "x.bin")
    assert result.keys() == shared.keys()
    for name, tensor in shared.items():
        assert torch.equal(result[name], tensor) and result[name].dtype == tensor.dtype


class Harm:
    """What unpickling this would run."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self):
        return os.mkdir, (str(self.witness),)


def test_what_would_run_code_is_refused_and_runs_none(tmp_path: Path) -> None:
    path, witness = tmp_path / "x.bin", tmp_path / "witness"
    torch.save(TENSORS | {"more": Harm(witness)}, path)
    with pytest.raises(UserError, match=r"x\.bin: is damaged, or holds more than tensors"):
        load_torch_file(path)
    assert not witness.exists()
    torch.load(path, weights_only=False)  # the harm is real
    assert witness.exists()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ([TENSORS["a"]], "holds no tensors by name"),
        ({}, "holds no tensors by name"),
        (TENSORS["a"], "holds no tensors by name"),
        ({"step": 3} | TENSORS, "step is int; every entry must be a tensor"),
        ({"model": TENSORS}, "model is dict; every entry"),
        ({3: TENSORS["a"]}, "3 is Tensor; every entry"),
        ({"a": torch.eye(2).to_sparse()}, "a is Tensor; every entry"),
        ({"a": nn.Parameter(torch.ones(1))}, "a is Parameter; every entry"),
    ],
)
def test_other_content_is_named(tmp_path: Path, content: object, sentence: str) -> None:
    torch.save(content, tmp_path / "x.bin")
    with pytest.raises(UserError, match=sentence) as refusal:
        load_torch_file(tmp_path / "x.bin")
    assert "\n" not in str(refusal.value)


def test_a_file_of_the_old_kind_or_of_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    torch.save(TENSORS, path, _use_new_zipfile_serialization=False)
    with pytest.raises(UserError, match=r"is not a file of torch\.save"):
        load_torch_file(path)
    path.write_bytes(b"")
    with pytest.raises(UserError, match=r"is not a file of torch\.save"):
        load_torch_file(path)
    with pytest.raises(UserError, match=r"none\.bin: is not a file of torch\.save"):
        load_torch_file(tmp_path / "none.bin")


def test_a_file_that_would_grow_is_refused_before_it_does(tmp_path: Path) -> None:
    plain, packed = tmp_path / "plain.bin", tmp_path / "packed.bin"
    torch.save({"a": torch.zeros(10**6)}, plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as to:
        for part in source.infolist():
            to.writestr(part.filename, source.read(part))
    assert packed.stat().st_size < 10**5
    with pytest.raises(UserError, match="has packed parts"):
        load_torch_file(packed)


@given(data=st.data())
@budget(100)
def test_a_damaged_file_is_read_or_refused_in_one_sentence(
    whole: Path, data: st.DataObject
) -> None:
    bad = whole.with_name("bad.bin")
    bad.write_bytes(data.draw(damaged(whole.read_bytes())))
    ends_well("torch file", lambda: load_torch_file(bad), bad)
