"""Texts of any content: the configuration, JSON artefacts, datasets, answers under way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from eagle3.config.configuration import Config
from eagle3.data.answer_record import Answer, Record
from eagle3.data.row_files import Unreadable
from eagle3.data.sources import Source, read_rows
from eagle3.errors import UserError
from eagle3.files.artifact import Manifest, Settings, read_json, write_json
from eagle3.run import External
from eagle3.tokens.schedule import KIND as SCHEDULE
from eagle3.workflow.settings import all_settings
from tests.builders.damage import CASES, HOSTILE, budget, damaged, ends_well, mistaken

ROOT = Path(__file__).resolve().parents[2]
DEFAULT = Config.of(yaml.safe_load((ROOT / "config.yaml").read_text())).to_dict()
EXTERNAL = External((), "", "", "", None, "", "")
TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
# what people and machines write where a text or a number belongs
ODD = HOSTILE | st.text(max_size=8) | st.integers() | st.floats() | st.dates()


def keys_of(value: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every key of the configuration, sections too."""
    result = [path] if path else []
    if isinstance(value, dict):
        for name, inner in value.items():
            result += keys_of(inner, (*path, name))
    return result


@given(data=st.data())
@budget(200)
def test_a_configuration_is_refused_in_sentences_or_gives_settings(data: st.DataObject) -> None:
    given_config = json.loads(json.dumps(DEFAULT))
    for path in data.draw(st.lists(st.sampled_from(keys_of(DEFAULT)), min_size=1, max_size=3)):
        section = given_config
        for name in path[:-1]:
            section = section.get(name) if isinstance(section, dict) else None
        if isinstance(section, dict):
            section[path[-1]] = data.draw(ODD | st.dictionaries(st.text(max_size=3), ODD))

    def read() -> None:
        full = Config.of(given_config).to_dict()
        assert Config.of(full).to_dict() == full
        for each in all_settings(full, EXTERNAL).values():
            assert Settings(**json.loads(each.text)).digest == each.digest
        # a path below results/, however it is called
        assert Path("results", full["run"]).resolve().parent == Path("results").resolve()
        assert "\n" not in full["run"]

    if not ends_well("configuration", read, "config: "):
        assert Config.of(DEFAULT).to_dict() == DEFAULT


@pytest.mark.parametrize(
    "run", ["..", ".", "a/b", "/etc", "a\n", "", "-x", "a b", "~", "ü", "a\0", "x" * 65]
)
def test_a_run_cannot_leave_the_folder_of_results(run: str) -> None:
    with pytest.raises(UserError, match="config: run is "):
        Config.of({"run": run})


def test_a_configuration_that_contains_itself_is_refused() -> None:
    loop: dict[str, Any] = {}
    loop["more"] = loop
    with pytest.raises(
        UserError, match=r"config: resources\.capture\.sglang_arguments is nested too deeply"
    ):
        Config.of({"run": "r", "resources": {"capture": {"sglang_arguments": loop}}})


@pytest.fixture(scope="module")
def artefact(tmp_path_factory: Any) -> Path:
    path = tmp_path_factory.mktemp("json") / "schedule.json"
    content = {"total_steps": 7, "stages": [{"stage": 1, "epochs": [0], "packs_digest": "ab"}]}
    write_json(path, content, Manifest.of(SCHEDULE, Settings("schedule", {"train": {}}, {})))
    return path


@given(data=st.data())
@budget(300)
def test_a_damaged_json_artefact_is_refused_or_unchanged(
    artefact: Path, data: st.DataObject
) -> None:
    whole = artefact.read_bytes()
    content = json.loads(whole)
    bad = data.draw(damaged(whole) | mistaken(content).map(lambda v: json.dumps(v).encode()))
    path = artefact.with_name("bad.json")
    path.write_bytes(bad)

    def read() -> None:
        result, _ = read_json(path, SCHEDULE, content["manifest"]["settings_digest"])
        assert result == {k: v for k, v in content.items() if k != "manifest"}

    ends_well("JSON artefact", read, path)


@pytest.mark.parametrize("text", ["[" * 10**5, '{"a":' * 10**5, "1" * 10**5, "\ud83d", "null"])
def test_texts_that_break_parsers_are_no_artefacts(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    assert not ends_well("JSON artefact", lambda: read_json(path, SCHEDULE), path)
    assert not ends_well("JSON artefact", lambda: read_json(tmp_path, SCHEDULE), tmp_path)


def written(path: Path) -> bytes:
    """A small dataset of the file's kind."""
    rows = [{"id": f"row {n}", "messages": TALK} for n in range(5)]
    match path.suffix:
        case ".parquet":
            import pyarrow
            from pyarrow import parquet

            parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        case ".json":
            path.write_text(json.dumps(rows))
        case _:
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path.read_bytes()


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
@given(data=st.data())
@budget(200)
def test_a_damaged_dataset_gives_rows_or_a_sentence(
    tmp_path_factory: Any, suffix: str, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / f"rows{suffix}"
    whole = written(path)
    path.write_bytes(data.draw(damaged(whole) | st.binary(max_size=200)))
    ends_well(f"dataset, {suffix}", lambda: list(read_rows(Source(str(path)))), path)


def test_a_line_without_an_end_is_one_bad_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eagle3.data.row_files.LONGEST_LINE", 64)
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n' + "x" * 1000 + '\n{"a": 2}\n' + "y" * 64)
    first, second, third, fourth = read_rows(Source(str(path)))
    assert (first, third) == ({"a": 1}, {"a": 2})
    assert isinstance(second, Unreadable)
    assert isinstance(fourth, Unreadable)


@given(data=st.data())
@budget(150)
def test_a_damaged_record_of_answers_keeps_only_what_was_answered(
    tmp_path_factory: Any, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "record.jsonl"
    path.unlink(missing_ok=True)
    answers = {("row ü", 0): Answer("Hi"), ("row", 1): Answer("Hello", "thought")}
    with Record.opened(path, "mine") as record:
        for (row, turn), answer in answers.items():
            record.add(row, turn, answer)
    path.write_bytes(data.draw(damaged(path.read_bytes())))
    CASES["answers under way"] += 1
    with Record.opened(path, "mine") as record:
        for row, turn in answers:
            result = record.known(row, turn)
            assert result is None or isinstance(result.content, str)
        record.add("new", 0, Answer("yes"))
    with Record.opened(path, "mine") as record:
        assert record.known("new", 0) == Answer("yes")
