"""Model cards: what the hub reads of them, per format, with names and licences as they come."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from eagle3.data.sources import Source
from eagle3.report.card import licence_of, render_card
from tests.builders.run_facts import CONFIG, facts, figures

SOURCES = (Source("ultrachat"), Source("hub:owner/chats"), Source("/home/somebody/mine.jsonl"))
FORMATS = ("sglang", "vllm", "speculators", "hf")
HUB_TARGET = {"model": "hub:acme/big-model"}


def card(form: str = "sglang", licence: dict[str, str] | None = None, **more: Any) -> str:
    stages = [figures(n, stage=i, epochs_done=2.0 * i) for i, n in ((1, 1.5), (2, 1.25))]
    run = facts(stages=stages, exported=1, **more)
    return render_card(run, form, SOURCES, licence or {})


@pytest.mark.parametrize("form", FORMATS)
def test_the_hub_reads_what_the_front_matter_says(form: str) -> None:
    licence = {"license": "other", "license_name": "acme: open"}
    front = ModelCard(card(form, licence, config={"target": HUB_TARGET})).data
    assert front.base_model == "acme/big-model"
    assert front.library_name == {"hf": "eagle3"}.get(form, form)
    assert front.pipeline_tag == "text-generation"
    assert {"eagle3", "speculative-decoding"} <= set(front.tags)
    assert front.datasets == ["HuggingFaceH4/ultrachat_200k", "owner/chats"]
    assert (front.license, front.license_name) == ("other", "acme: open")


def test_what_is_not_known_is_left_to_the_author_and_named_in_a_comment() -> None:
    text = card(model="/home/somebody/my-llama")
    front = ModelCard(text).data
    assert front.base_model is None and front.license is None
    assert "\n# base_model: <owner>" in text and "\n# license: " in text
    assert "# EAGLE-3 draft for my-llama\n" in text and "somebody" not in text


def test_a_verifier_on_the_hub_is_the_base_model_of_a_local_target(tmp_path: Path) -> None:
    def base(verifier: str) -> str | None:
        config = {"export": CONFIG["export"] | {"verifier": verifier}}
        return ModelCard(card(model=str(tmp_path), config=config)).data.base_model

    assert base("acme/big-model") == "acme/big-model"
    assert base("/srv/models/big-model") is None


COMMANDS = {
    "sglang": "sglang.launch_server --model acme/big-model",
    "vllm": "vllm serve acme/big-model",
    "speculators": "vllm serve path/to/this/draft\n",
    "hf": None,
}


@pytest.mark.parametrize("form", FORMATS)
def test_the_card_serves_its_own_format_and_no_other(form: str) -> None:
    text = card(form, config={"target": HUB_TARGET})
    for other, command in COMMANDS.items():
        if command is not None:
            assert (command in text) == (other == form), (form, other)
    assert ("path/to/this/draft" in text) == (form != "hf")


def test_the_card_says_what_was_measured_and_how_it_was_trained() -> None:
    text = card()
    assert "| held_out (24) | 2.25 | 2.12 to 2.38 |" in text
    assert "speed-up is 1.83x, with 2 draft\ntokens per round" in text
    assert "\nThis one-layer model speeds up" in text
    assert "| 3 optimiser steps, stage 1 of 2 (2 epochs) |" in text  # of 6 in both stages
    assert "| owner/chats, mine: 11 conversations, 4,000 tokens, 1,000 of them" in text
    assert "muon, learning rate 0.0002, of matrices 0.002 (" in text
    assert "numpy 2.0, torch 3.0" in text
    assert "abcdef0123456789" in text and "Warning" not in text
    for moment in ("2026", "A GPU", "A processor", "commit"):  # of one machine on one day
        assert moment not in text


def test_the_last_stage_is_named_where_the_best_is_not_what_is_exported() -> None:
    stages = [figures(2.0, stage=i, epochs_done=1.0 * i) for i in (1, 2)]
    run = facts(stages=stages, exported=2)
    assert "| 6 optimiser steps, stage 2 of 2 (2 epochs) |" in render_card(run, "hf", (), {})


def test_a_slow_draft_is_not_recommended() -> None:
    text = card(plan={"target_parameters": 800.0, "doubts": ["few steps"]})
    assert "Not recommended" in text and "sglang.launch_server" not in text
    assert "> **Warning**: few steps.\n" in text and "estimated speed-up is" not in text


def test_names_stay_text() -> None:
    text = card(model="/x/a|b`<script>\n---\nlicense: mit")
    assert ModelCard(text).data.license is None
    assert "<script" not in text and "a|b" not in text


def test_equal_runs_have_equal_cards() -> None:
    assert card() == card()


@pytest.mark.parametrize(
    ("front", "expected"),
    [
        ("license: apache-2.0", {"license": "apache-2.0"}),
        (
            "license: other\nlicense_name: acme\nlicense_link: https://acme.example/l",
            {
                "license": "other",
                "license_name": "acme",
                "license_link": "https://acme.example/l",
            },
        ),
        ("license: other\nlicense_link: LICENSE", {"license": "other"}),
        ("license: [a, b]", {}),
        ("license_name: acme", {}),
        ("tags: [x]", {}),
        ("- a list", {}),
        ("license: {{{", {}),
        ("", {}),
    ],
)
def test_the_licence_is_that_of_the_targets_card(
    tmp_path: Path, front: str, expected: dict[str, str]
) -> None:
    path = tmp_path / "README.md"
    path.write_text(f"---\n{front}\n---\n# A model\n\nlicense: mit\n")
    assert licence_of(path) == expected


def test_no_card_and_no_front_matter_say_nothing(tmp_path: Path) -> None:
    assert licence_of(None) == licence_of(tmp_path / "none.md") == {}
    path = tmp_path / "README.md"
    for content in (b"# A model\n", b"---\nlicense: mit", b"\xff\xfe---", b""):
        path.write_bytes(content)
        assert licence_of(path) == {}
