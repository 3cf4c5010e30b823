"""The prefix and the plugin's settings, before any job starts."""

from __future__ import annotations

import os

import pytest
from snakemake_interface_common.plugin_registry.plugin import TaggedSettings
from snakemake_storage_plugin_s3 import StorageProviderSettings

from eagle3.config.configuration import Config
from eagle3.errors import UserError
from eagle3.workflow import object_storage as storage


def prefix(value):
    return Config.of({"run": "r", "resources": {"storage_prefix": value}}).to_dict()


@pytest.mark.parametrize("value", [None, "s3://bucket", "s3://my.bucket-1/a/b_c=d"])
def test_a_prefix_is_a_bucket_and_maybe_a_folder(value):
    assert prefix(value)["resources"]["storage_prefix"] == value


@pytest.mark.parametrize("value", ["/disk", "s3://", "s3://b/", "s3://bucket/a/", "gs://bucket/a"])
def test_another_address_is_refused(value):
    with pytest.raises(UserError, match=r"resources\.storage_prefix"):
        prefix(value)


def test_a_missing_plugin_is_told_by_the_name_of_the_extra(monkeypatch):
    storage.check_plugin("s3://bucket/a")
    monkeypatch.setattr(storage, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"'s3://bucket/a', which needs the extra `s3`: pip inst"):
        storage.check_plugin("s3://bucket/a")


def test_what_the_plugin_is_told_reaches_the_jobs_and_nothing_else_changes(monkeypatch):
    for name in storage.VARIABLES.values():
        monkeypatch.setenv(name, "mine")
    storage.share_settings(None)
    assert {os.environ[name] for name in storage.VARIABLES.values()} == {"mine"}
    tagged = TaggedSettings()
    told = StorageProviderSettings(endpoint_url="http://here", access_key="key", secret_key="word")
    tagged.register_settings(told)
    storage.share_settings(tagged)
    assert os.environ["AWS_ENDPOINT_URL_S3"] == "http://here"
    assert os.environ["AWS_ACCESS_KEY_ID"] == "key"
    assert os.environ["AWS_SECRET_ACCESS_KEY"] == "word"
    assert os.environ["AWS_SESSION_TOKEN"] == "mine"
