"""Shards in object storage: the same bytes as on the disk, read ahead, and refused otherwise."""

from __future__ import annotations

import subprocess
import sys
import threading

import numpy as np
import pytest
import torch

from eagle3.errors import UserError
from eagle3.files import object_storage
from eagle3.files.object_storage import split_address, upload
from eagle3.store.codecs import CODECS
from eagle3.store.reader import FeatureShard
from eagle3.training.data import TrainingData
from eagle3.training.loader import read_ahead
from tests.builders.ports import address_of_nobody
from tests.builders.shards import TOKENS, captured, chats, state_settings, token_shard
from tests.builders.waiting import wait_for

ADDRESS = "s3://states/run/shard.safetensors"
BUCKET, KEY = split_address(ADDRESS)


def shard(targets, folder, codec="bf16", documents=5):
    """A token shard, and the states captured from it as a local file."""
    tokens = token_shard(folder / "tokens", chats(documents))
    local = captured(folder / "states", targets["llama"], folder / "tokens", state_settings(codec))
    return tokens, local


def test_a_large_file_is_written_in_few_parts(tmp_path, store, monkeypatch):
    """S3 refuses more than 10,000 parts; of the client's own size that would be 52 GB."""
    monkeypatch.setattr(object_storage, "MOST_PARTS", 4)
    path, size = tmp_path / "states", 40 * 2**20 + 3
    with path.open("wb") as file:
        file.truncate(size)
    upload(path, ADDRESS)
    there = store.head_object(Bucket=BUCKET, Key=KEY)
    assert there["ContentLength"] == size and there["ETag"].strip('"').endswith("-4")


@pytest.mark.parametrize("codec", CODECS)
def test_a_remote_shard_gives_the_bytes_of_the_local_one(targets, tmp_path, store, codec):
    tokens, local = shard(targets, tmp_path, codec)
    upload(local.path, ADDRESS)
    remote = FeatureShard(ADDRESS, tokens, state_settings(codec).digest)
    remote.will_need(3)
    for document in (3, 0, 3, 4, 1, 2):
        expected = local.read(document)
        for name, rows in remote.read(document).items():
            assert torch.equal(rows, expected[name]), (document, name)


def test_packs_of_remote_shards_equal_local_ones_and_are_asked_for_ahead(targets, tmp_path, proxy):
    """Holding every answer back shows how many requests are under way before the first arrives."""
    _, local = shard(targets, tmp_path, "fp32", documents=12)
    upload(local.path, ADDRESS)
    near = TrainingData([tmp_path / "tokens"], [local.path], TOKENS.digest)
    far = TrainingData([tmp_path / "tokens"], [ADDRESS], TOKENS.digest)
    packs = [np.array([number]) for number in range(12)]
    before, proxy.hold = proxy.ranges, threading.Event()
    result = []
    reading = threading.Thread(
        target=lambda: result.extend(read_ahead(far, packs, torch.device("cpu")))
    )
    reading.start()
    wait_for(
        lambda: proxy.running >= object_storage.REQUESTS,
        f"{object_storage.REQUESTS} range reads at once",
        state=lambda: f"{proxy.running} are under way",
    )
    assert not result
    proxy.hold.set()
    wait_for(lambda: not reading.is_alive(), "all packs to be read", state=lambda: len(result))
    assert proxy.most == object_storage.REQUESTS
    parts = len(local.layout.parts)
    assert proxy.ranges - before == 12 * parts  # what was announced is not asked for again
    for pack, numbers in zip(result, packs, strict=True):
        assert torch.equal(pack.aux, near.pack(numbers).aux)
        assert torch.equal(pack.teacher_lse, near.pack(numbers).teacher_lse)


def test_a_shard_is_opened_with_three_requests(targets, tmp_path, proxy):
    """Its size and tag, its header, its checksums."""
    tokens, local = shard(targets, tmp_path)
    upload(local.path, ADDRESS)
    FeatureShard(ADDRESS, tokens)
    assert proxy.ranges == 2


def refused(tokens, documents=range(5)):
    with pytest.raises(UserError) as result:
        remote = FeatureShard(ADDRESS, tokens)
        for document in documents:
            remote.read(document)
    text = str(result.value)
    assert text.startswith(ADDRESS) and "\n" not in text
    return text


def test_a_flipped_bit_is_seen(targets, tmp_path, store):
    tokens, local = shard(targets, tmp_path)
    data = bytearray(local.path.read_bytes())
    data[-5] ^= 1
    store.put_object(Bucket=BUCKET, Key=KEY, Body=bytes(data))
    assert "does not match its checksum" in refused(tokens)


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.999])
def test_a_truncated_object_is_refused(targets, tmp_path, store, kept):
    tokens, local = shard(targets, tmp_path)
    data = local.path.read_bytes()
    store.put_object(Bucket=BUCKET, Key=KEY, Body=data[: int(kept * len(data))])
    assert "is not a whole safetensors file" in refused(tokens)


def test_an_object_replaced_while_it_is_read_is_refused(targets, tmp_path, store):
    """Even by one that is whole and of the same settings."""
    tokens, local = shard(targets, tmp_path)
    upload(local.path, ADDRESS)
    remote = FeatureShard(ADDRESS, tokens)
    remote.read(0)
    other = bytearray(local.path.read_bytes())
    other[-5] ^= 1
    store.put_object(Bucket=BUCKET, Key=KEY, Body=bytes(other))
    with pytest.raises(UserError, match="was replaced while it was being read: start the job"):
        remote.read(1)
    store.delete_object(Bucket=BUCKET, Key=KEY)
    with pytest.raises(UserError, match="no such object: delete it and run snakemake again"):
        remote.read(2)


def test_a_missing_object_is_refused(targets, tmp_path, store):
    tokens, _ = shard(targets, tmp_path)
    store.delete_object(Bucket=BUCKET, Key=KEY)
    assert "no such object" in refused(tokens)


def test_a_refused_access_says_what_to_check(targets, tmp_path, proxy):
    tokens, local = shard(targets, tmp_path)
    upload(local.path, ADDRESS)
    proxy.spoil = [lambda _: 403]
    assert "access is denied; check the credentials" in refused(tokens)


def test_transient_faults_are_repeated(targets, tmp_path, proxy):
    """A server that is too busy, and a transfer that breaks off in the middle."""
    tokens, local = shard(targets, tmp_path)
    upload(local.path, ADDRESS)
    remote = FeatureShard(ADDRESS, tokens)
    proxy.spoil = [lambda _: 503, lambda body: body[: len(body) // 2]]
    assert torch.equal(remote.read(1)["aux"], local.read(1)["aux"])
    assert proxy.spoil == []


def test_a_transfer_that_breaks_off_does_not_go_on_in_another_object(
    targets, tmp_path, store, proxy
):
    tokens, local = shard(targets, tmp_path)
    upload(local.path, ADDRESS)
    remote = FeatureShard(ADDRESS, tokens)
    other = bytes(byte ^ 1 for byte in local.path.read_bytes())

    def replaced(body):
        store.put_object(Bucket=BUCKET, Key=KEY, Body=other)
        return body[: len(body) // 2]

    proxy.spoil = [replaced]
    with pytest.raises(UserError, match="was replaced while it was being read: start the job"):
        remote.read(1)


def test_missing_credentials_are_one_sentence(tmp_path, store, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    object_storage.store.cache_clear()
    with pytest.raises(UserError, match=r"^s3://states: there are no credentials"):
        object_storage.ObjectFile(ADDRESS)


def test_a_server_that_is_not_there_is_one_sentence(targets, tmp_path, store, monkeypatch):
    tokens, _ = shard(targets, tmp_path)
    monkeypatch.setattr(object_storage, "ATTEMPTS", 1)
    with address_of_nobody() as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", address)
        object_storage.store.cache_clear()
        assert "cannot be reached" in refused(tokens)


def test_an_upload_to_a_bucket_that_is_not_there_is_one_sentence(tmp_path, store):
    (tmp_path / "file").write_bytes(b"1")
    with pytest.raises(UserError, match=r"^s3://absent/key: there is no such bucket$"):
        upload(tmp_path / "file", "s3://absent/key")


@pytest.mark.parametrize("text", ["s3://bucket", "s3:///key", "s3://bucket/", "bucket/key"])
def test_an_address_without_bucket_or_key_is_refused(text):
    with pytest.raises(UserError, match="must be s3://bucket/key"):
        split_address(text)


def test_local_shards_need_no_client(targets, tmp_path):
    """The client is imported where an object is opened and nowhere else."""
    _, local = shard(targets, tmp_path)
    code = (
        "import sys; sys.modules['obstore'] = None\n"
        "from pathlib import Path\n"
        "from eagle3.errors import UserError\n"
        "from eagle3.store.reader import FeatureShard\n"
        "from eagle3.tokens.shards import read_token_shard\n"
        "tokens = read_token_shard(Path(sys.argv[1]))\n"
        "FeatureShard(Path(sys.argv[2]), tokens).read(0)\n"
        "try: FeatureShard('s3://bucket/key', tokens)\n"
        "except UserError as fault: print(fault)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "tokens"), str(local.path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("s3:// addresses need the extra `s3`: pip install"), done.stderr
