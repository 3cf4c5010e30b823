"""A real S3-compatible server, one for all tests of the room, and a bucket in it."""

from __future__ import annotations

import boto3
import pytest

from benchmarks.object_proxy import ObjectProxy
from benchmarks.object_server import CREDENTIALS, REGION, object_server
from eagle3.files import object_storage

BUCKET = "states"


@pytest.fixture(scope="session")
def server():
    with object_server() as address:
        yield address


@pytest.fixture
def store(server, monkeypatch):
    """A client of its own, and the environment that leads the project's own one to the server."""
    for name, value in {**CREDENTIALS, "AWS_DEFAULT_REGION": REGION}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server)
    object_storage.store.cache_clear()
    direct = boto3.client("s3")
    direct.create_bucket(Bucket=BUCKET)
    yield direct
    object_storage.store.cache_clear()


@pytest.fixture
def proxy(server, store, monkeypatch):
    """What the project's client talks to instead, in front of the server."""
    with ObjectProxy(server) as between:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", between.address)
        object_storage.store.cache_clear()
        yield between
