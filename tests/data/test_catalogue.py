"""Every dataset of the catalogue, on rows in its own shape."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import pytest

from docs.datasets_table import table
from eagle3.config.configuration import Config
from eagle3.data.catalogue import CATALOGUE
from eagle3.data.conversations import BadRow, parse_row
from eagle3.data.converters import CONVERTERS
from eagle3.data.row_files import Unreadable
from eagle3.data.sources import ALL, Source, read_rows, sources_of
from eagle3.errors import UserError
from tests.rules.workflow import ROOT

# the names of SpecForge's presets, which people bring along; camel is three datasets here
PEER = {
    *("ultrachat", "sharegpt", "eaglechat", "perfectblend", "opc", "gsm8k", "hendrycks_math"),
    *("magpie-qwen2.5-pro-1m-v0.1", "nebius-llama31-8b-infinity-instruct", "math_qa", "sciq"),
    *("codealpaca-20k", "opencodeinstruct", "magicoder-evol-instruct"),
    *(f"perfectblend-llama3.{n}-instruct" for n in ("1-8b", "3-70b")),
    *(f"perfectblend-llama4-{n}-instruct" for n in ("scout", "maverick")),
    *(f"camel-{subject}" for subject in ("biology", "chemistry", "physics")),
}
SAID = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
SHAREGPT = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]
SCIQ = {
    "question": "Hi",
    "correct_answer": "Hello",
    "distractor1": "1",
    "distractor2": "2",
    "distractor3": "3",
    "support": "",
}
# a row in the columns of the hub -> the id, what is asked, what is answered
ROWS: dict[str, tuple[dict[str, Any], str | None, str, str]] = {
    "turns": ({"id": "a", "conversations": SHAREGPT, "source": "x"}, "a", "Hi", "Hello"),
    "turns, id in uuid": ({"uuid": "a", "conversations": SHAREGPT}, "a", "Hi", "Hello"),
    "turns, id in prompt_id": (
        {"prompt": "Hi", "prompt_id": "a", "messages": SAID},
        "a",
        "Hi",
        "Hello",
    ),
    "conversation and generated_message": (
        {"id": 7, "conversation": [SAID[0], {"role": "assistant", "content": "old"}]}
        | {"generated_message": "Hello"},
        "7",
        "Hi",
        "Hello",
    ),
    "question, answer": ({"question": "Hi", "answer": "Hello"}, None, "Hi", "Hello"),
    "problem, solution": (
        {"problem": "Hi", "solution": "Hello", "level": "1"},
        None,
        "Hi",
        "Hello",
    ),
    "instruction, output": ({"instruction": "Hi", "output": "Hello"}, None, "Hi", "Hello"),
    "instruction, input, output": (
        {"instruction": "Hi", "input": "you", "output": "Hello"},
        None,
        "Hi\n\nyou",
        "Hello",
    ),
    "instruction, response": ({"instruction": "Hi", "response": "Hello"}, None, "Hi", "Hello"),
    "input, output": ({"id": "a", "input": "Hi", "output": "Hello"}, "a", "Hi", "Hello"),
    "message_1, message_2": (
        {"role_1": "x", "topic;": "y", "message_1": "Hi", "message_2": "Hello"},
        None,
        "Hi",
        "Hello",
    ),
    "Problem, options, Rationale": (
        {"Problem": "Hi", "options": "a ) 1 , b ) 2", "Rationale": "Hello", "correct": "a"},
        None,
        "Hi\na ) 1 , b ) 2",
        "Hello",
    ),
    "question, choices, support": (SCIQ, None, "Hi\nA. 1\nB. Hello\nC. 2\nD. 3", "B. Hello"),
}


def test_every_dataset_of_the_peer_is_known() -> None:
    assert set(CATALOGUE) >= PEER


def test_the_table_in_the_documentation_is_that_of_the_catalogue() -> None:
    assert table() in (ROOT / "docs/datasets.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", CONVERTERS)
def test_a_row_in_a_datasets_own_columns_is_a_conversation(name: str) -> None:
    row, identity, asked, answered = ROWS[name]
    before = repr(row)
    result, repairs = parse_row(CONVERTERS[name](row))
    assert [(m["role"], m["content"]) for m in result.messages] == [
        ("user", asked),
        ("assistant", answered),
    ]
    assert repairs == []
    assert result.id == identity or (identity is None and len(result.id) == 16)
    assert parse_row(CONVERTERS[name](row))[0] == result
    assert repr(row) == before


@pytest.mark.parametrize("name", [n for n in CONVERTERS if not n.startswith("turns")])
def test_a_row_without_its_columns_is_refused_with_their_name(name: str) -> None:
    row, *_ = ROWS[name]
    for column in [c for c in row if c in name or c.startswith(("correct", "distractor"))]:
        if column in ("correct", "support"):
            continue
        for value in (None, 7):
            changed = {**row, column: value}
            if column == "input" and value is None and name.startswith("instruction"):
                result, _ = parse_row(CONVERTERS[name](changed))
                assert result.messages[0]["content"] == "Hi"  # optional
                continue
            with pytest.raises(BadRow, match=column):
                CONVERTERS[name](changed)


def test_the_order_of_choices_follows_from_the_question_and_not_from_chance() -> None:
    convert = CONVERTERS["question, choices, support"]
    orders = set()
    for number in range(40):
        row = {**SCIQ, "question": f"Q{number}", "support": "Because."}
        made = convert(row)["messages"]
        assert convert(row)["messages"] == made
        letter = made[1]["content"].removeprefix("Because.\n\n")[0]
        assert f"{letter}. Hello" in made[0]["content"].splitlines()
        orders.add(letter)
    assert orders == set("ABCD")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """A hub whose every dataset has one good row and one without columns."""
    asked: list[tuple[Any, ...]] = []

    def load_dataset_builder(name: str, subset: str | None, revision: str | None) -> Any:
        entry = next(entry for entry in CATALOGUE.values() if entry.repository == name)
        row = ROWS[entry.converter][0]

        def as_dataset(split: str) -> datasets.Dataset:
            asked.append((name, subset, split, revision))
            return datasets.Dataset.from_list([row, dict.fromkeys(row)])

        made = SimpleNamespace(download_and_prepare=lambda: None, as_dataset=as_dataset)
        made.hash = revision
        return made

    monkeypatch.setattr(datasets, "load_dataset_builder", load_dataset_builder)
    return asked


@pytest.mark.parametrize("name", CATALOGUE)
def test_a_name_reads_the_dataset_it_stands_for(hub: list[tuple[Any, ...]], name: str) -> None:
    entry = CATALOGUE[name]
    commits: set[str] = set()
    rows = list(read_rows(Source(name), commits))
    subsets = entry.subsets if entry.all_subsets else entry.subsets[:1] or (None,)
    assert hub == [(entry.repository, subset, entry.split, entry.revision) for subset in subsets]
    assert commits == ({entry.revision} if entry.revision else set())
    used, bad = rows[::2], rows[1::2]
    assert len(used) == len(bad) == len(subsets)
    assert all(parse_row(row)[0].messages[1]["role"] == "assistant" for row in used)
    for row in bad:
        if not isinstance(row, Unreadable):
            with pytest.raises(BadRow):
                parse_row(row)


def test_a_commit_of_the_configuration_goes_before_that_of_the_catalogue(
    hub: list[tuple[Any, ...]],
) -> None:
    list(read_rows(Source("sciq", revision="main")))
    assert [revision for *_, revision in hub] == ["main"]


def test_another_commit_in_the_catalogue_is_another_source() -> None:
    entry = CATALOGUE["sciq"]
    assert Source("sciq").identity == f"sciq@{entry.revision}"
    # what the configuration says is compared there; what nobody knows cannot be
    assert Source("sciq", revision="main").identity == "sciq"
    assert Source("eaglechat").identity == "eaglechat"
    assert Source("hub:owner/name").identity == "hub:owner/name"


def test_commits_are_whole_ones() -> None:
    pinned = [entry.revision for entry in CATALOGUE.values() if entry.revision]
    assert len(pinned) >= 12 and all(re.fullmatch("[0-9a-f]{40}", commit) for commit in pinned)


def test_subsets_may_be_chosen_and_wrong_ones_are_named(hub: list[tuple[Any, ...]]) -> None:
    list(read_rows(Source("opc", "realuser_instruct")))
    list(read_rows(Source("opc", ALL)))
    assert [subset for _, subset, _, _ in hub] == [
        "realuser_instruct",
        *CATALOGUE["opc"].subsets,
    ]
    with pytest.raises(UserError, match=r"dataset\.subset: opc has no 'x'; it has largescale"):
        list(read_rows(Source("opc", "x")))


def test_a_dataset_in_a_local_folder_is_read_through_the_hubs_own_way(tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    folder.mkdir()
    rows = [{"id": "a", "conversations": SHAREGPT}]
    datasets.Dataset.from_list(rows).to_parquet(str(folder / "train.parquet"))
    for source in (Source(f"hub:{folder}"), Source(str(folder / "train.parquet"))):
        (row,) = read_rows(source)
        assert parse_row(row)[0].messages == SAID


def test_sources_may_be_one_or_several_each_with_its_own() -> None:
    common: dict[str, Any] = {"subset": None, "split": "test", "revision": None}
    assert sources_of({"source": "gsm8k", **common}) == [Source("gsm8k", split="test")]
    several = ["chats.jsonl", {"source": "gsm8k", "weight": 0.5, "split": "train"}]
    assert sources_of({"source": several, **common}) == [
        Source("chats.jsonl", split="test"),
        Source("gsm8k", split="train", weight=0.5),
    ]
    with pytest.raises(UserError, match=r"dataset\.source has two sources called 'a'.*`name`"):
        sources_of({"source": ["x/a.jsonl", "y/a.parquet"], **common})


def test_sources_of_one_name_may_be_given_others() -> None:
    common: dict[str, Any] = {"subset": None, "split": None, "revision": None}
    versions = sources_of({"source": ["hub:o/Chats-v0.1", "hub:o/Chats-v0.2"], **common})
    assert [source.name for source in versions] == ["Chats-v0.1", "Chats-v0.2"]
    parts = [{"source": "gsm8k", "subset": part, "name": part} for part in ("main", "socratic")]
    for several in (parts, ["x/a.jsonl", {"source": "y/a.jsonl", "name": "b"}]):
        config = Config.of({"run": "r", "dataset": {"source": several}}).to_dict()
        names = [source.name for source in sources_of(config["dataset"])]
        assert names in (["main", "socratic"], ["a", "b"])


def test_a_name_that_is_nearly_one_is_asked_back() -> None:
    with pytest.raises(UserError, match=r"ultrachatt does not exist; .*did you mean ultrachat"):
        read_rows(Source("ultrachatt"))
