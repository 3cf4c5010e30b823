"""Where targets lie, and what their small files say."""

from __future__ import annotations

import json

import huggingface_hub
import pytest

from eagle3.errors import UserError
from eagle3.target_model.config import load_config, stop_ids
from eagle3.target_model.files import card_of, resolve_target
from eagle3.target_model.tokenizer import load_tokenizer
from tests.builders.models import save_model


def test_a_model_directory_is_itself(targets):
    assert resolve_target(str(targets["llama"])) == targets["llama"]


def test_a_directory_without_config_is_refused_in_one_sentence(tmp_path):
    with pytest.raises(
        UserError, match=r"target\.model: .*not a Hugging Face model.*hub:"
    ) as result:
        resolve_target(str(tmp_path))
    assert "\n" not in str(result.value)


def test_a_hub_model_is_fetched_with_its_revision_and_without_pickles(monkeypatch, tmp_path):
    asked = []

    def download(name, revision, allow_patterns, ignore_patterns):
        asked.append((name, revision, allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert resolve_target("hub:some/model", "abc") == tmp_path
    resolve_target("hub:some/model", weights=False)
    (name, revision, with_weights), (_, none, without) = asked
    assert (name, revision, none) == ("some/model", "abc", None)
    assert "*.safetensors" in with_weights and "*.safetensors" not in without
    assert "README.md" in without  # for the licence
    assert not any(".bin" in pattern or ".pt" in pattern for pattern in with_weights)


def test_a_targets_card_is_read_where_this_machine_has_it(monkeypatch, tmp_path):
    assert card_of(str(tmp_path)) is None
    (tmp_path / "README.md").write_text("# A model\n")
    assert card_of(str(tmp_path)) == tmp_path / "README.md"
    cached = {("some/model", "README.md", "v1"): str(tmp_path / "README.md")}

    def look_up(name, file, revision):
        return cached.get((name, file, revision), object())  # as for a file known to be missing

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", look_up)
    assert card_of("hub:some/model", "v1") == tmp_path / "README.md"
    assert card_of("hub:some/model", "v2") is None


@pytest.mark.parametrize("fault", [OSError("no network\nmore"), OSError(), ValueError])
def test_a_failed_download_names_the_model(monkeypatch, fault):
    def download(*_args, **_more):
        raise (fault if isinstance(fault, Exception) else huggingface_hub.errors.HFValidationError)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(UserError, match=r"cannot fetch hub:some/model \(revision v1\)") as result:
        resolve_target("hub:some/model", "v1")
    assert "\n" not in str(result.value)


@pytest.mark.parametrize(
    ("generation", "expected"), [([5, 3], [3, 5]), (4, [4]), (None, [1]), ("absent", [1])]
)
def test_stop_tokens_come_from_the_generation_config_first(tmp_path, generation, expected):
    save_model(tmp_path, "llama", num_hidden_layers=1)
    file = tmp_path / "generation_config.json"
    file.unlink()
    if generation != "absent":
        file.write_text(json.dumps({"eos_token_id": generation}))
    assert stop_ids(tmp_path, load_config(tmp_path)) == expected


def test_a_target_may_have_no_stop_token(tmp_path):
    save_model(tmp_path, "llama", num_hidden_layers=1, eos_token_id=None)
    assert stop_ids(tmp_path, load_config(tmp_path)) == []


def test_an_unreadable_configuration_and_a_missing_tokenizer_are_sentences(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "no-such-architecture"}')
    with pytest.raises(UserError, match="cannot read the configuration"):
        load_config(tmp_path)
    with pytest.raises(UserError, match="cannot load the tokenizer"):
        load_tokenizer(tmp_path)
