"""The whole small workflow with hidden states and checkpoints in object storage."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import boto3
import pytest

from benchmarks.object_server import CREDENTIALS, REGION, object_server
from tests.rules.workflow import snakemake

pytestmark = [pytest.mark.dag, pytest.mark.long]
BUCKET, FOLDER = "dag", "project"
PLACED = {"resources": {"storage_prefix": f"s3://{BUCKET}/{FOLDER}"}}
OUT = f"{FOLDER}/results/small"
DELIVERY = {"export": 1, "evaluate": 1, "report": 1}
TRAINING = {"train_stage": 2, "score_stage": 2, "select_best": 1, **DELIVERY}
WEIGHTS = "results/small/draft/sglang/model.safetensors"


@pytest.fixture
def store(monkeypatch):
    """A client and a bucket; the server's address is given as Snakemake's plugin takes it, and the
    jobs' own client is to be handed the same."""
    key, secret = CREDENTIALS["AWS_ACCESS_KEY_ID"], CREDENTIALS["AWS_SECRET_ACCESS_KEY"]
    for name in (*CREDENTIALS, "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    with object_server() as address:
        monkeypatch.setenv("SNAKEMAKE_STORAGE_S3_ENDPOINT_URL", address)
        monkeypatch.setenv("SNAKEMAKE_STORAGE_S3_ACCESS_KEY", key)
        monkeypatch.setenv("SNAKEMAKE_STORAGE_S3_SECRET_KEY", secret)
        client = boto3.client(
            "s3", REGION, endpoint_url=address, aws_access_key_id=key, aws_secret_access_key=secret
        )
        client.create_bucket(Bucket=BUCKET)
        yield client


def keys(store) -> dict[str, str]:
    """Tags of the objects by name."""
    result = store.list_objects_v2(Bucket=BUCKET).get("Contents", [])
    return {entry["Key"].removeprefix(f"{OUT}/"): entry["ETag"] for entry in result}


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def large_files(folder: Path) -> list[Path]:
    """Hidden states and checkpoints on the disk, under whatever name."""
    paths = [p for p in folder.rglob("*") if p.is_file() and p.suffix in (".safetensors", ".tmp")]
    return [p for p in paths if {"hidden_states", "checkpoints"} & set(p.parts)]


def test_a_run_in_object_storage_is_the_local_run(store, finished, copy):
    """Dataset, tokens and target are those of the local run; what is stored is made anew."""
    for name in ("hidden_states", "checkpoints"):
        shutil.rmtree(copy / "results/small" / name)
    made = snakemake(copy, change=PLACED)
    assert made.code == 0, made.text[-6000:]
    assert dict(made.jobs) == {"hidden_states": 2, "held_out_states": 1, **TRAINING}
    shards = [f"hidden_states/train/shard-0000{n}.safetensors" for n in (0, 1)]
    shards.append("hidden_states/eval/shard-00000.safetensors")
    files = ("model.safetensors", "state.json")  # the optimiser is gone: nobody needs it any more
    folders = ("stage-0001", "stage-0002", "best")
    stages = [f"checkpoints/{folder}/{name}" for folder in folders for name in files]
    stored = keys(store)
    assert sorted(stored) == sorted([*shards, *stages])
    for name in shards:
        body = store.get_object(Bucket=BUCKET, Key=f"{OUT}/{name}")["Body"].read()
        assert body == (finished / "results/small" / name).read_bytes(), name
    assert digest(copy / WEIGHTS) == digest(finished / WEIGHTS)
    assert large_files(copy) == []

    again = snakemake(copy, change=PLACED)
    assert again.code == 0 and again.idle and not again.jobs

    change = PLACED | {"train": {"learning_rate": 2.0e-3}}
    slower = snakemake(copy, change=change)
    assert slower.code == 0, slower.text[-6000:]
    assert dict(slower.jobs) == {"plan": 1, **TRAINING}
    after = keys(store)
    assert all(after[name] == stored[name] for name in shards)
    assert digest(copy / WEIGHTS) != digest(finished / WEIGHTS)

    store.delete_object(Bucket=BUCKET, Key=f"{OUT}/{shards[1]}")
    assert snakemake(copy, "-n", change=change).idle  # nobody needs it
    planned = snakemake(copy, "-n", change=PLACED)
    assert dict(planned.jobs) == {"hidden_states": 1, "plan": 1, **TRAINING}
