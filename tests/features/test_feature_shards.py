"""Hidden-state shards: what is written comes back, and what does not fit is refused."""

from __future__ import annotations

import pytest
import torch
from models import HIDDEN
from shards import STATES, TOKENS, chats, stage_settings, token_shard

from eagle3.artifact import Manifest
from eagle3.errors import UserError
from eagle3.features.shards import KIND, FeatureShard, write_feature_shard
from eagle3.tensorfile import save_tensors
from eagle3.tokens.needed import needed_states


@pytest.fixture
def tokens(tmp_path):
    return token_shard(tmp_path / "tokens.safetensors", [*chats(4), ([3, 4], [0, 0]), *chats(2, 5)])


def random_states(tokens, seed=0):
    needed = needed_states(tokens.loss_mask, tokens.doc_offsets)
    aux, last = int(needed.aux_offsets[-1]), int(needed.last_offsets[-1])
    generator = torch.Generator().manual_seed(seed)
    return {
        "aux": torch.randn(aux, 3 * HIDDEN, generator=generator).bfloat16(),
        "last": torch.randn(last, HIDDEN, generator=generator).bfloat16(),
        "teacher_argmax": torch.arange(last, dtype=torch.int32),
        "teacher_lse": torch.randn(last, generator=generator),
    }


def test_every_document_comes_back_as_it_was_written(tmp_path, tokens):
    states, path = random_states(tokens), tmp_path / "states.safetensors"
    manifest = write_feature_shard(path, states, tokens, STATES)
    shard = FeatureShard(path, tokens, STATES.digest)
    read = [shard.read(document) for document in range(len(tokens))]
    for name, written in states.items():
        assert torch.equal(torch.cat([getattr(doc, name) for doc in read]), written)
    assert len(read[4].aux) == len(read[4].last) == 0
    assert manifest.counts == {
        "documents": 7,
        "aux": len(states["aux"]),
        "last": len(states["last"]),
    }


def refused(path, tokens, digest=STATES.digest):
    with pytest.raises(UserError) as found:
        FeatureShard(path, tokens, digest)
    text = str(found.value)
    assert str(path) in text and "\n" not in text
    return text


def test_states_of_other_tokens_are_refused(tmp_path, tokens):
    write_feature_shard(tmp_path / "a", random_states(tokens), tokens, STATES)
    ids = tokens.input_ids.copy()
    ids[0] += 1  # same layout, one other token
    documents = [
        (ids[a:b], tokens.loss_mask[a:b])
        for a, b in zip(tokens.doc_offsets[:-1], tokens.doc_offsets[1:], strict=True)
    ]
    other = token_shard(tmp_path / "other.safetensors", documents, TOKENS)
    assert "other tokens" in refused(tmp_path / "a", other)


def test_states_of_other_settings_are_refused(tmp_path, tokens):
    write_feature_shard(tmp_path / "a", random_states(tokens), tokens, stage_settings("x", codec=1))
    assert "other settings" in refused(tmp_path / "a", tokens)


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.999])
def test_a_truncated_file_is_refused(tmp_path, tokens, kept):
    path = tmp_path / "a"
    write_feature_shard(path, random_states(tokens), tokens, STATES)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    assert "not a whole safetensors file" in refused(path, tokens)


def test_a_missing_file_is_refused(tmp_path, tokens):
    assert "no such file" in refused(tmp_path / "a", tokens)


@pytest.mark.parametrize("name", ["aux", "last", "teacher_argmax", "teacher_lse"])
def test_missing_rows_are_refused_by_writer_and_reader(tmp_path, tokens, name):
    states = random_states(tokens)
    states[name] = states[name][:-1]
    with pytest.raises(UserError, match=f"rows of {name} captured"):
        write_feature_shard(tmp_path / "a", states, tokens, STATES)
    assert not (tmp_path / "a").exists()
    manifest = Manifest.of(KIND, STATES, {"tokens": tokens.manifest.content_sha256})
    states["crc32"] = torch.zeros(len(tokens), dtype=torch.int64)
    save_tensors(tmp_path / "a", states, manifest)
    assert "rows, its tokens ask for" in refused(tmp_path / "a", tokens)
    del states[name]
    save_tensors(tmp_path / "a", states, manifest)
    assert f"holds no {name}" in refused(tmp_path / "a", tokens)


@pytest.mark.parametrize("name", ["aux", "last", "teacher_lse"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_states_that_are_not_finite_are_refused_with_their_row(tmp_path, tokens, name, value):
    states = random_states(tokens)
    states[name][3] = value
    with pytest.raises(UserError, match=rf"1 of \d+ rows of {name} are not finite \(first: row 3"):
        write_feature_shard(tmp_path / "a", states, tokens, STATES)
    assert not (tmp_path / "a").exists()


def test_a_shard_without_documents_is_legal(tmp_path):
    empty = token_shard(tmp_path / "tokens.safetensors", [])
    write_feature_shard(tmp_path / "a", random_states(empty), empty, STATES)
    FeatureShard(tmp_path / "a", empty, STATES.digest)


def test_a_flipped_bit_is_seen_when_its_document_is_read(tmp_path, tokens):
    path = tmp_path / "a"
    write_feature_shard(path, random_states(tokens), tokens, STATES)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    shard = FeatureShard(path, tokens, STATES.digest)
    faults = []
    for document in range(len(tokens)):
        try:
            shard.read(document)
        except UserError as fault:
            faults.append(str(fault))
    assert len(faults) == 1
    assert "does not match its checksum: delete it and run snakemake again" in faults[0]
