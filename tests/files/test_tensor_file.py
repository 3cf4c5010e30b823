"""Tensor files are whole, are what their manifest says, and are refused otherwise."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from eagle3.errors import UserError
from eagle3.files.artifact import Manifest, Settings
from eagle3.files.tensor_file import (
    content_sha256,
    load_tensors,
    open_tensors,
    read_manifest,
    save_tensors,
)

SETTINGS = Settings("vocab", {"vocab": {"draft_vocab_size": 2}}, {})
MANIFEST = Manifest.of("vocab", SETTINGS, {"tokens-0": "abc"}, {"n": 1})
ARRAYS = {
    "a": np.arange(12, dtype=np.float32).reshape(3, 4),
    "b": np.array([True, False]),
    "c": np.arange(5, dtype=np.int64),
    "none": np.empty((0, 3), dtype=np.float32),
    "one": np.array(7, dtype=np.int32),
    "turned": np.arange(6, dtype=np.uint8).reshape(2, 3).T,
}


def torch_tensors() -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in ARRAYS.items()}


def same(a: Any, b: Any) -> bool:
    a, b = np.asarray(a), np.asarray(b)
    return a.dtype == b.dtype and a.shape == b.shape and bool((a == b).all())


@pytest.mark.parametrize("framework", ["np", "pt"])
@pytest.mark.parametrize("make", [lambda: ARRAYS, torch_tensors], ids=["numpy", "torch"])
def test_arrays_and_tensors_are_read_back_as_they_were_written(
    tmp_path: Path, make: Any, framework: str
) -> None:
    path = tmp_path / "f.safetensors"
    returned = save_tensors(path, make(), MANIFEST)
    result, manifest = load_tensors(path, "vocab", SETTINGS.digest, framework)
    assert manifest == returned == read_manifest(path, "vocab", SETTINGS.digest)
    assert set(result) == set(ARRAYS)
    assert all(same(result[name], ARRAYS[name]) for name in ARRAYS)
    assert list(tmp_path.iterdir()) == [path]


def test_types_that_only_torch_has_keep_their_bits(tmp_path: Path) -> None:
    given = {"x": torch.randn(3, 2).bfloat16(), "y": torch.randn(4, requires_grad=True)}
    save_tensors(tmp_path / "f", given, MANIFEST)
    result, _ = load_tensors(tmp_path / "f", "vocab", framework="pt")
    assert result["x"].dtype == torch.bfloat16
    assert all(torch.equal(result[name], given[name]) for name in given)


def test_numpy_and_torch_agree_on_the_checksum() -> None:
    assert content_sha256(ARRAYS) == content_sha256(torch_tensors())
    assert content_sha256(dict(reversed(ARRAYS.items()))) == content_sha256(ARRAYS)


@pytest.mark.parametrize(
    "changed",
    [
        {"x": np.array([1, 2, 4], np.int32)},
        {"y": np.array([1, 2, 3], np.int32)},
        {"x": np.array([[1, 2, 3]], np.int32)},
        {"x": np.array([1, 2, 3], np.uint32)},
        {"x": np.array([1, 2, 3], np.int32), "z": np.empty(0, np.int32)},
    ],
    ids=["value", "name", "shape", "type", "one more"],
)
def test_the_checksum_covers_names_types_shapes_and_values(changed: dict[str, Any]) -> None:
    assert content_sha256({"x": np.array([1, 2, 3], np.int32)}) != content_sha256(changed)


def test_a_file_without_tensors_is_legal(tmp_path: Path) -> None:
    save_tensors(tmp_path / "f", {}, MANIFEST)
    assert load_tensors(tmp_path / "f", "vocab")[0] == {}


def test_a_fault_while_writing_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "f.safetensors"
    save_tensors(path, ARRAYS, MANIFEST)
    shared = torch.zeros(4)
    for bad in ({"a": shared, "b": shared[1:]}, {"a": torch.zeros(1), "b": "text"}):
        with pytest.raises((RuntimeError, AttributeError)):
            save_tensors(path, bad, MANIFEST)
    assert set(load_tensors(path, "vocab")[0]) == set(ARRAYS)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("framework", ["np", "pt"])
def test_a_flipped_bit_is_refused(tmp_path: Path, framework: str) -> None:
    path = tmp_path / "f.safetensors"
    save_tensors(path, ARRAYS, MANIFEST)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        load_tensors(path, "vocab", framework=framework)
    assert str(caught.value) == (
        f"{path}: content does not match its checksum: delete it and run snakemake again"
    )


@pytest.mark.parametrize("kept", [0, 4, 50, -1])
def test_a_cut_file_is_refused(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "f.safetensors"
    save_tensors(path, ARRAYS, MANIFEST)
    path.write_bytes(path.read_bytes()[:kept])
    for read in (open_tensors, lambda p: read_manifest(p, "vocab")):
        with pytest.raises(UserError, match=r"f.safetensors: is not a whole safetensors file \("):
            read(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"f.safetensors: no such file$"):
        load_tensors(tmp_path / "f.safetensors", "vocab")


@pytest.mark.parametrize("metadata", [None, {"manifest": "{"}, {"manifest": "[]"}])
def test_a_file_of_somebody_else_is_refused(
    tmp_path: Path, metadata: dict[str, str] | None
) -> None:
    save_file({"x": np.zeros(1)}, tmp_path / "f", metadata=metadata)
    with pytest.raises(UserError, match=r"f: carries no manifest of this project \("):
        read_manifest(tmp_path / "f", "vocab")


def test_another_kind_or_other_settings_are_refused(tmp_path: Path) -> None:
    save_tensors(tmp_path / "f", ARRAYS, MANIFEST)
    with pytest.raises(UserError, match="f: is a 'vocab' file, expected 'tokens'"):
        load_tensors(tmp_path / "f", "tokens")
    with pytest.raises(UserError, match=r"f: was made under other settings \(digest "):
        load_tensors(tmp_path / "f", "vocab", "0" * 16)


def test_reading_and_writing_arrays_does_not_import_torch(tmp_path: Path) -> None:
    code = (
        "import sys, numpy as np; from pathlib import Path\n"
        "from eagle3.files.artifact import Manifest, Settings\n"
        "from eagle3.files.tensor_file import load_tensors, save_tensors\n"
        "path = Path(sys.argv[1])\n"
        "save_tensors(path, {'x': np.zeros(3)}, Manifest.of('k', Settings('k', {}, {})))\n"
        "load_tensors(path, 'k')\n"
        "assert 'torch' not in sys.modules\n"
    )
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "f")], check=True, cwd=root)


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    """The library alone writes its metadata in an order that differs from file to file."""
    for number in range(16):
        save_tensors(tmp_path / str(number), ARRAYS, MANIFEST)
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(UserError, match=r"file/a.safetensors: cannot be written: File exists"):
        save_tensors(tmp_path / "file" / "a.safetensors", ARRAYS, MANIFEST)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
