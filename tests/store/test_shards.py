"""Hidden-state shards: what is written comes back, and what does not fit is refused."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from eagle3.errors import UserError
from eagle3.files.artifact import Manifest
from eagle3.files.tensor_file import open_tensors, read_manifest, save_tensors
from eagle3.store import writer as writer_module
from eagle3.store.codecs import CODECS
from eagle3.store.layout import CHECKSUM, INDEX, Layout
from eagle3.store.reader import KIND, FeatureShard
from eagle3.store.writer import ShardWriter
from tests.builders.models import HIDDEN
from tests.builders.shards import STATES, TOKENS, chats, stage_settings, token_shard
from tests.builders.waiting import wait_for

EVERY = pytest.mark.parametrize("codec", CODECS)
BOTH = pytest.mark.parametrize("codec", ["int8", "bf16_zstd"])  # of fixed width, and compressed


@pytest.fixture
def tokens(tmp_path):
    return token_shard(tmp_path / "tokens.safetensors", [*chats(4), ([3, 4], [0, 0]), *chats(2, 5)])


def layout_of(tokens, codec, layers=3):
    return Layout(tokens.needed, codec, HIDDEN, layers)


def random_parts(layout, documents, seed=0):
    """Encoded rows of some documents, and the states that they decode to."""
    needed, parts, decoded = layout.needed, {}, {}
    for name, offsets, chunks in (
        ("aux", needed.aux_offsets, layout.layers),
        ("last", needed.last_offsets, 1),
    ):
        pieces = []
        for document in documents:
            generator = torch.Generator().manual_seed(1000 * seed + document)
            count = int(offsets[document + 1] - offsets[document])
            pieces.append(torch.randn(count, chunks, HIDDEN, generator=generator).bfloat16())
        encoded = CODECS[layout.codec].encode(torch.cat(pieces))
        parts |= {f"{name}{suffix}": rows for suffix, rows in encoded.items()}
        decoded[name] = CODECS[layout.codec].decode(encoded, chunks)
    rows = [torch.arange(*needed.last_offsets[d : d + 2].tolist()) for d in documents]
    parts["teacher_argmax"] = torch.cat(rows).int()
    parts["teacher_lse"] = torch.cat(rows).float() / 7
    return parts, decoded | {n: parts[n] for n in ("teacher_argmax", "teacher_lse")}


def write(
    path,
    tokens,
    codec="bf16",
    order=(3, 0, 2, 6, 1, 5),
    together=2,
    settings=STATES,
    layers=(1, 3, 4),
):
    """Write random states in batches of documents, in any order; return what they decode to."""
    layout = layout_of(tokens, codec, len(layers))
    counts = {"codec": codec, "hidden_size": HIDDEN, "aux_layers": list(layers)}
    inputs = {"tokens": tokens.manifest.content_sha256}
    shard = ShardWriter(path, layout, Manifest.of(KIND, settings, inputs, counts), threads=2)
    expected = {}
    try:
        for start in range(0, len(order), together):
            documents = list(order[start : start + together])
            parts, decoded = random_parts(layout, documents)
            shard.put(documents, parts)
            starts = {"aux": 0, "last": 0, "teacher_argmax": 0, "teacher_lse": 0}
            for document in documents:
                rows = {}
                for name in starts:
                    offsets = getattr(
                        layout.needed, "aux_offsets" if name == "aux" else "last_offsets"
                    )
                    count = int(offsets[document + 1] - offsets[document])
                    rows[name] = decoded[name][starts[name] : starts[name] + count]
                    starts[name] += count
                expected[document] = rows
        shard.finish({"more": 1})
    finally:
        shard.close()
    return expected


@EVERY
def test_every_document_comes_back_as_it_was_written(tmp_path, tokens, codec):
    expected = write(tmp_path / "a", tokens, codec)
    shard = FeatureShard(tmp_path / "a", tokens, STATES.digest)
    for document, rows in expected.items():
        result = shard.read(document)
        for name, written in rows.items():
            assert torch.equal(result[name], written), (document, name)
    assert [len(rows) for rows in shard.read(4).values()] == [0, 0, 0, 0]
    assert shard.manifest.counts["more"] == 1


@EVERY
def test_the_file_is_an_ordinary_safetensors_file(tmp_path, tokens, codec):
    write(tmp_path / "a", tokens, codec)
    with open_tensors(tmp_path / "a", "pt") as handle:
        shapes = {name: handle.get_slice(name).get_shape() for name in handle.keys()}  # noqa: SIM118
        assert all(len(handle.get_tensor(name)) >= 0 for name in shapes)
    layout = layout_of(tokens, codec)
    assert shapes["teacher_argmax"] == [layout.last_rows]
    assert ("frames" in shapes) == layout.framed != ("aux" in shapes)


@BOTH
def test_batches_change_no_byte_and_order_none_of_a_fixed_layout(tmp_path, tokens, codec):
    write(tmp_path / "a", tokens, codec, together=2)
    write(tmp_path / "b", tokens, codec, together=3)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    write(tmp_path / "c", tokens, codec, order=(0, 1, 2, 3, 5, 6))
    same = (tmp_path / "a").read_bytes() == (tmp_path / "c").read_bytes()
    assert same or codec == "bf16_zstd"


def test_several_threads_read_at_once(tmp_path, tokens):
    expected = write(tmp_path / "a", tokens, "bf16_zstd")
    shard = FeatureShard(tmp_path / "a", tokens, STATES.digest)
    faults = []

    def work():
        for document in list(expected) * 20:
            if not torch.equal(shard.read(document)["aux"], expected[document]["aux"]):
                faults.append(document)

    threads = [threading.Thread(target=work) for _ in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert not faults


def test_a_document_is_taken_once_and_none_is_left_out(tmp_path, tokens):
    with pytest.raises(UserError, match="document 2 was captured twice"):
        write(tmp_path / "a", tokens, order=(0, 2, 1, 2))
    with pytest.raises(UserError, match=r"2 of 7 documents were not captured \(first: \[5, 6\]\)"):
        write(tmp_path / "a", tokens, order=(0, 1, 2, 3))


def test_a_disk_that_fails_is_told_to_the_caller_and_stalls_nothing(tmp_path, tokens, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writer_module.TensorStream, "write", full)
    monkeypatch.setattr(writer_module, "WAITING", 1)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path / "a", tokens, together=1)


def test_the_queue_holds_the_caller_back(tmp_path, tokens, monkeypatch):
    """A slow disk: no more than the batches allowed to wait are ever handed over."""
    written, most = [], []
    plain = writer_module.ShardWriter._write

    def slow(self, batch):
        if not written:  # the disk does nothing before the caller has filled the queue
            wait_for(self._queue.full, "a full queue", state=self._queue.qsize)
        most.append(self._queue.qsize())
        plain(self, batch)
        written.append(batch.documents)

    monkeypatch.setattr(writer_module.ShardWriter, "_write", slow)
    write(tmp_path / "a", tokens, together=1)
    assert len(written) == 6 and max(most) <= writer_module.WAITING


def refused(path, tokens, digest=STATES.digest):
    with pytest.raises(UserError) as result:
        FeatureShard(path, tokens, digest)
    text = str(result.value)
    assert str(path) in text and "\n" not in text
    return text


def test_states_of_other_tokens_are_refused(tmp_path, tokens):
    write(tmp_path / "a", tokens)
    ids = tokens.input_ids.copy()
    ids[0] += 1  # same layout, one other token
    documents = [
        (ids[a:b], tokens.loss_mask[a:b])
        for a, b in zip(tokens.doc_offsets[:-1], tokens.doc_offsets[1:], strict=True)
    ]
    other = token_shard(tmp_path / "other.safetensors", documents, TOKENS)
    assert "other tokens" in refused(tmp_path / "a", other)


def test_states_of_other_settings_or_weights_are_refused(tmp_path, tokens):
    write(tmp_path / "a", tokens, settings=stage_settings("x", {"weights": "other"}))
    assert "other settings" in refused(tmp_path / "a", tokens)


@BOTH
@pytest.mark.parametrize("kept", [0.0, 0.5, 0.999])
def test_a_truncated_file_is_refused(tmp_path, tokens, kept, codec):
    path = tmp_path / "a"
    write(path, tokens, codec)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    assert "not a whole safetensors file" in refused(path, tokens)


def test_a_file_that_is_not_finished_is_refused(tmp_path, tokens):
    with pytest.raises(UserError, match="not captured"):
        write(tmp_path / "a", tokens, order=(0, 1))
    assert "not a whole safetensors file" in refused(tmp_path / "a", tokens)


def test_a_file_cut_short_while_it_is_open_is_an_error_and_no_crash(tmp_path, tokens):
    write(tmp_path / "a", tokens)
    shard = FeatureShard(tmp_path / "a", tokens, STATES.digest)
    with open(tmp_path / "a", "r+b") as handle:
        handle.truncate(9000)
    with pytest.raises(UserError, match="ends too early"):
        shard.read(6)


def test_a_missing_file_is_refused(tmp_path, tokens):
    assert "no such file" in refused(tmp_path / "a", tokens)


def rewritten(path, change, framework="np"):
    """The file again with its tensors or manifest changed."""
    with open_tensors(path, framework) as handle:
        tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
    manifest = read_manifest(path, KIND)
    save_tensors(path, tensors, change(tensors, manifest) or manifest)


@pytest.mark.parametrize("name", ["aux", "last_scale", "teacher_argmax", "teacher_lse", CHECKSUM])
def test_missing_rows_and_missing_tensors_are_refused(tmp_path, tokens, name):
    for cut in (slice(0, -1), None):
        write(tmp_path / "a", tokens, "int8")

        def change(tensors, _, cut=cut):
            if cut:
                tensors[name] = tensors[name][cut].clone()
            else:
                del tensors[name]

        rewritten(tmp_path / "a", change, "pt")
        assert "holds other tensors than its tokens and codec require" in refused(
            tmp_path / "a", tokens
        )


@pytest.mark.parametrize("place", [[-1, 0, 0], [2**62, 2**62, 2**62], [0, 10**9, 1]])
def test_an_index_that_points_outside_is_refused(tmp_path, tokens, place):
    write(tmp_path / "a", tokens, "bf16_zstd")

    def change(tensors, _):
        tensors[INDEX][2] = place

    rewritten(tmp_path / "a", change)
    assert "places documents outside the file" in refused(tmp_path / "a", tokens)


def test_an_index_that_points_at_another_document_is_seen(tmp_path, tokens):
    write(tmp_path / "a", tokens, "bf16_zstd")

    def change(tensors, _):
        tensors[INDEX][[1, 2]] = tensors[INDEX][[2, 1]]

    rewritten(tmp_path / "a", change)
    with pytest.raises(UserError, match="document 2 does not match its checksum"):
        FeatureShard(tmp_path / "a", tokens, STATES.digest).read(2)


def test_a_manifest_that_says_too_little_is_refused(tmp_path, tokens):
    write(tmp_path / "a", tokens)
    rewritten(tmp_path / "a", lambda _, manifest: manifest.counts.pop("codec") and None, "pt")
    assert "does not say how it is stored" in refused(tmp_path / "a", tokens)


@BOTH
def test_every_flipped_bit_is_seen_when_its_document_is_read(tmp_path, tokens, codec):
    path = tmp_path / "a"
    write(path, tokens, codec)
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    random = np.random.default_rng(0)
    for place in random.integers(header, len(whole), 40).tolist():
        data = bytearray(whole)
        data[place] ^= 1 << int(random.integers(8))
        path.write_bytes(data)
        with pytest.raises(UserError, match=r"checksum|outside|cannot be unpacked"):
            shard = FeatureShard(path, tokens, STATES.digest)
            for document in range(len(tokens)):
                shard.read(document)


@EVERY
def test_a_shard_without_documents_is_legal(tmp_path, codec):
    empty = token_shard(tmp_path / "tokens.safetensors", [])
    write(tmp_path / "a", empty, codec, order=())
    FeatureShard(tmp_path / "a", empty, STATES.digest)
