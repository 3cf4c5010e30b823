"""Safetensors files that are damaged or lie: every reader of one, header and content."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from eagle3.data.rows import DatasetFile, Stream, write_dataset
from eagle3.files.artifact import Manifest
from eagle3.files.tensor_file import save_tensors
from eagle3.files.tensor_stream import read_header
from eagle3.store.reader import FeatureShard
from eagle3.tokens.shards import read_token_shard
from eagle3.tokens.vocab import KIND as VOCAB
from eagle3.tokens.vocab import read_mapping
from eagle3.training.checkpoint import (
    MODEL,
    OPTIMIZER,
    Checkpoint,
    read_checkpoint,
    write_checkpoint,
)
from tests.builders.damage import budget, damaged, ends_well, mistaken, split, tensor_file
from tests.builders.shards import (
    TOKENS,
    captured,
    chats,
    stage_settings,
    state_settings,
    token_shard,
)

TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
CODECS = ("bf16", "bf16_zstd", "fp8_e4m3", "nf4")
Reader = tuple[Path, Callable[[], Any]]


def tokens_file(folder: Path, _: Any) -> Reader:
    path = folder / "shard.safetensors"
    token_shard(path, chats(4))
    return path, lambda: read_token_shard(path, TOKENS.digest)


def mapping_file(folder: Path, _: Any) -> Reader:
    path = folder / "mapping.safetensors"
    t2d = np.array([True, False, True, True])
    tensors = {"d2t": np.array([0, 1, 1]), "t2d": t2d}
    save_tensors(path, tensors, Manifest.of(VOCAB, stage_settings("vocab")))
    return path, lambda: read_mapping(path, stage_settings("vocab").digest)


def index_file(folder: Path, _: Any) -> Reader:
    values = {"seed": 7, "eval_fraction": 0.3, "max_bad_fraction": 1.0, "deduplicate": False}
    rows = [{"id": f"row {n}", "messages": TALK} for n in range(9)]
    write_dataset([Stream(rows)], values, folder, stage_settings("dataset"), 1)
    return folder / "rows.index.safetensors", lambda: list(DatasetFile(folder, "train"))


def checkpoint_file(name: str) -> Callable[[Path, Any], Reader]:
    def make(folder: Path, _: Any) -> Reader:
        model = {"fc.weight": torch.arange(6.0).reshape(2, 3), "norm.weight": torch.ones(2)}
        adam = {"fc.weight.exp_avg": torch.zeros(2, 3)}
        result = Checkpoint(model, adam, {"global_step": 3, "inputs": {}})
        write_checkpoint(folder, result, stage_settings("train"), {})
        return folder / name, lambda: read_checkpoint(folder, stage_settings("train").digest)

    return make


def states_file(codec: str) -> Callable[[Path, Any], Reader]:
    def make(folder: Path, targets: Any) -> Reader:
        token_shard(folder / "tokens.safetensors", chats(3))
        tokens = read_token_shard(folder / "tokens.safetensors")
        path, settings = folder / "states.safetensors", state_settings(codec)
        captured(path, targets["llama"], folder / "tokens.safetensors", settings)

        def read() -> None:
            shard = FeatureShard(path, tokens, settings.digest)
            for document in range(shard.layout.documents):
                shard.read(document)

        return path, read

    return make


READERS = {
    "token shard": tokens_file,
    "vocabulary mapping": mapping_file,
    "index of rows": index_file,
    "checkpoint": checkpoint_file(MODEL),
    "optimiser state": checkpoint_file(OPTIMIZER),
    **{f"hidden states, {codec}": states_file(codec) for codec in CODECS},
}


@pytest.fixture(scope="module", params=READERS)
def file(request: pytest.FixtureRequest, tmp_path_factory: Any, targets: Any) -> Any:
    """A whole file of each kind: its name, its path, its reader, its bytes."""
    folder = tmp_path_factory.mktemp("fuzz")
    path, read = READERS[request.param](folder, targets)
    assert ends_well(request.param, read, path)
    return request.param, path, read, path.read_bytes()


def vouched_for(whole: bytes) -> Any:
    """What no accident may change without anybody's notice: the tensors, and the settings that they
    were made under. Counts and versions are for people."""
    header, content = split(whole)
    manifest = json.loads(header.pop("__metadata__")["manifest"])
    return header, content, manifest["settings"], manifest["settings_digest"]


@given(data=st.data())
@budget(60)
def test_a_damaged_tensor_file_is_refused_in_one_sentence(file: Any, data: st.DataObject) -> None:
    name, path, read, whole = file
    bad = data.draw(damaged(whole))
    path.write_bytes(bad)
    if ends_well(name, read, path.parent):
        assert vouched_for(bad) == vouched_for(whole)


@given(data=st.data())
@budget(60)
def test_a_header_that_lies_is_refused_in_one_sentence(file: Any, data: st.DataObject) -> None:
    name, path, read, whole = file
    header, content = split(whole)
    bad = data.draw(mistaken(header))
    length = data.draw(st.none() | st.sampled_from([0, 1, 7, 2**31, 2**40, 2**63, 2**64 - 1]))
    path.write_bytes(tensor_file(bad, content, length))
    ends_well(name, read, path.parent)


@given(data=st.data())
@budget(60)
def test_a_manifest_that_lies_is_refused_in_one_sentence(file: Any, data: st.DataObject) -> None:
    name, path, read, whole = file
    header, content = split(whole)
    manifest = json.loads(header["__metadata__"]["manifest"])
    header["__metadata__"]["manifest"] = json.dumps(data.draw(mistaken(manifest)))
    path.write_bytes(tensor_file(header, content))
    ends_well(name, read, path.parent)


ARRAYS = st.sampled_from(
    [
        np.empty(0, np.int32), np.zeros(3, np.int32), np.array([-5, 7], np.int32),
        np.arange(4, dtype=np.int64), np.array([0, 2**62, -(2**62), 4]), np.array([3, 2, 1]),
        np.array([0, -1, 4]), np.zeros((2, 2), np.int64), np.ones(4, np.uint8),
        np.full(4, 9, np.uint8), np.array([True, False]), np.array(3), np.zeros(2, np.float32),
        np.frombuffer(b'["a"]', np.uint8), np.frombuffer(b"[" * 3000, np.uint8),
        np.frombuffer(b'{"a": 1}', np.uint8), np.frombuffer(b"\xff\xfe", np.uint8),
        np.empty(0, np.int64), np.empty(0, np.uint32), np.full(3, 2**32 - 1, np.uint32),
    ]
)  # fmt: skip


@given(data=st.data())
@budget(40)
def test_tensors_under_a_right_checksum_are_still_looked_at(file: Any, data: st.DataObject) -> None:
    """A checksum is no signature: who writes a file can write that too."""
    name, path, read, whole = file
    if name not in ("token shard", "vocabulary mapping", "index of rows"):
        return
    path.write_bytes(whole)
    header, _ = split(whole)
    tensors = load_file(path)
    manifest = Manifest(**json.loads(header["__metadata__"]["manifest"]))
    names = [*tensors, "more"]
    for key in data.draw(st.lists(st.sampled_from(names), min_size=1, unique=True)):
        tensors[key] = data.draw(ARRAYS)
    tensors.pop(data.draw(st.sampled_from(["", *names])), None)
    save_tensors(path, tensors, manifest)
    ends_well(f"{name}, right checksum", read, path.parent)


@given(data=st.data())
@budget(300)
def test_the_header_reader_accepts_only_what_the_library_does(
    tmp_path_factory: Any, data: st.DataObject
) -> None:
    """Our own reader of headers, which objects in storage need, is as strict as the library."""
    from safetensors import SafetensorError, safe_open

    header = {
        "__metadata__": {"format": "pt"},
        "a": {"dtype": "F32", "shape": [2, 1], "data_offsets": [0, 8]},
        "b": {"dtype": "U8", "shape": [3], "data_offsets": [8, 11]},
    }
    bad = tensor_file(data.draw(mistaken(header)), bytes(11))
    path = tmp_path_factory.getbasetemp() / "header.safetensors"
    path.write_bytes(bad)
    if ends_well(
        "safetensors header",
        lambda: read_header(path, len(bad), lambda place, count: bad[place : place + count]),
        path,
    ):
        try:
            safe_open(str(path), framework="np")
        except SafetensorError as fault:
            raise AssertionError(f"the library refuses it: {fault}") from None


LIARS = """
import resource, sys
from pathlib import Path
from tests.builders.damage import ends_well, tensor_file
from eagle3.store.reader import FeatureShard
from eagle3.tokens.shards import read_token_shard

folder = Path(sys.argv[1])
tokens = read_token_shard(folder / "tokens.safetensors")
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, used + 2**28))
path, huge = folder / "liar.safetensors", 2**40
for number, (length, shape, size) in enumerate(
    (length, shape, size)
    for length in (None, 10**8 + 1, 2**36, huge - 8, 2**62)
    for shape in ([huge], [2**31, 2**31], [0, 2**62], [2**62, 0, 2**62])
    for size in (100, huge)
):
    header = {"input_ids": {"dtype": "U8", "shape": shape, "data_offsets": [0, huge - 100]}}
    path.write_bytes(tensor_file(header, b"", length))
    with open(path, "r+b") as handle:
        handle.truncate(size)  # a terabyte that takes no disk
    for read in (lambda: read_token_shard(path), lambda: FeatureShard(path, tokens)):
        assert not ends_well("lying lengths", read, path)
print(number + 1)
"""


def test_a_lying_length_costs_no_memory(tmp_path: Path) -> None:
    """256 MiB more than the libraries take are enough for files that claim a terabyte, be it in
    their header or by holes."""
    token_shard(tmp_path / "tokens.safetensors", chats(2))
    done = subprocess.run(
        [sys.executable, "-c", LIARS, str(tmp_path)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip() == "40"
