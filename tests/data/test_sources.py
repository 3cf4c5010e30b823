"""Rows come from a local file or from the hub; what is not there is said in one sentence."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from eagle3.data.conversations import parse_row
from eagle3.data.row_files import Unreadable, readable
from eagle3.data.sources import Source, read_rows
from eagle3.errors import UserError


def read(source: Any) -> list[Any]:
    return list(read_rows(Source(str(source))))


@pytest.mark.parametrize("suffix", [".jsonl", ".ndjson"])
def test_broken_lines_are_told_from_rows_and_empty_ones_left_out(
    tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"rows{suffix}"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\n\n  \n{"a": \n\xff\xfe\n[[[\n{"a": "\xc3\xa9"}')
    broken = Unreadable("line is not JSON")
    assert read(path) == [{"a": 1}, broken, broken, broken, {"a": "é"}]


def test_a_line_separator_inside_text_does_not_end_a_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": "x\u2028y\x85z"}\r\n{"a": 2}\r\n', encoding="utf-8")
    assert read(path) == [{"a": "x\u2028y\x85z"}, {"a": 2}]


def test_absurdly_deep_json_is_one_bad_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("[" * 200_000 + '\n{"a": 1}\n')
    assert read(path) == [Unreadable("line is not JSON"), {"a": 1}]


def test_lines_are_read_as_they_are_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("1\n2\n3\n")
    assert next(read_rows(Source(str(path)))) == 1


def test_a_json_file_holds_a_list_of_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([{"a": 1}, {"a": 2}], indent=1))
    assert read(path) == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("rows.json", '{"a": 1}', "rows.json does not hold a list of rows"),
        ("rows.json", '[{"a": 1}', "rows.json is not JSON"),
        ("rows.json", "", "rows.json is not JSON"),
        ("rows.csv", "a,b", "rows.csv is none of .json, .jsonl"),
        ("rows", "a,b", "rows is none of .json, .jsonl"),
        ("rows.parquet", "a,b", "rows.parquet is no Parquet file"),
    ],
)
def test_a_file_that_is_no_list_of_rows_is_refused(
    tmp_path: Path, name: str, content: str, sentence: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=f"^dataset.source: .*{sentence}"):
        read(tmp_path / name)


def test_a_missing_file_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist; give a file, a folder, hub:<owner>/"):
        read(tmp_path / "none.jsonl")


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.NDJSON.gz", "a.jsonl.zst", "a.JSONL", "a.Json"])
def test_packed_lines_and_suffixes_of_any_case_are_read(tmp_path: Path, name: str) -> None:
    data = b'[{"a": 1}]' if name == "a.Json" else b'{"a": 1}\n\n[[[\n{"a": "\xc3\xa9"}'
    if name.endswith(".gz"):
        data = gzip.compress(data)
    if name.endswith(".zst"):
        data = zstandard.compress(data)
    (tmp_path / name).write_bytes(data)
    lines = [{"a": 1}, Unreadable("line is not JSON"), {"a": "é"}]
    assert read(tmp_path / name) == ([{"a": 1}] if name == "a.Json" else lines)


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst"])
def test_a_packed_file_that_is_cut_short_is_one_sentence(tmp_path: Path, name: str) -> None:
    noise = "".join(f'{{"a": {n * n}}}\n' for n in range(3000)).encode()
    packed = gzip.compress(noise) if name.endswith(".gz") else zstandard.compress(noise)
    (tmp_path / name).write_bytes(packed[: len(packed) // 2])
    with pytest.raises(UserError, match=rf"^dataset.source: cannot unpack .*{name}: "):
        read(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "known"),
    [
        *(("a.json", True), ("a.b.JSONL", True), ("a.ndjson.ZST", True), ("a.parquet", True)),
        *(("a.csv", False), ("a.json.gz", False), ("a.gz", False), ("a", False), (".jsonl", False)),
    ],
)
def test_a_name_says_whether_a_file_is_read(name: str, known: bool) -> None:
    assert readable(Path(name)) is known


def test_a_folder_is_read_file_by_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the folder .* has no file of \.json, \.jsonl"):
        read(tmp_path)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "2.jsonl").write_text('{"n": 3}\n')
    pq.write_table(pa.Table.from_pylist([{"n": 1}, {"n": 2}]), tmp_path / "a.parquet")
    (tmp_path / "readme.md").write_text("no rows")
    (tmp_path / ".cache.json").write_text("no rows")
    (tmp_path / "b" / ".ipynb_checkpoints").mkdir()
    (tmp_path / "b" / ".ipynb_checkpoints" / "2.jsonl").write_text('{"n": 3}\n')
    assert read(tmp_path) == [{"n": 1}, {"n": 2}, {"n": 3}]


def test_nulls_that_a_table_adds_reach_neither_schemas_nor_calls(tmp_path: Path) -> None:
    """Two rows with tools of different arguments: from Parquet they are what lines give."""
    rows = [chat("weather", "city", "Oslo"), chat("add", "number", 3)]
    lines, table = tmp_path / "rows.jsonl", tmp_path / "rows.parquet"
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), table)
    raw = pq.read_table(table).to_pylist()[0]["messages"][1]["tool_calls"][0]["function"]
    assert raw["arguments"] == {"city": "Oslo", "number": None}
    assert [parse_row(row) for row in read(table)] == [parse_row(row) for row in read(lines)]


def chat(name: str, argument: str, value: Any) -> dict[str, Any]:
    properties = {argument: {"type": "string", "default": None, "enum": [None, "x"]}}
    schema = {"type": "object", "properties": properties}
    call = {"type": "function", "function": {"name": name, "arguments": {argument: value}}}
    return {
        "id": name,
        "messages": [
            {"role": "user", "content": "Please."},
            {"role": "assistant", "content": "", "tool_calls": [call]},
        ],
        "tools": [{"type": "function", "function": {"name": name, "parameters": schema}}],
    }


def test_a_hub_dataset_is_asked_for_by_name_subset_split_and_revision(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = [
        {"id": "a", "conversations": [{"from": "human", "value": "Hi"}], "messages": None},
        {"id": "b", "conversations": None, "messages": [{"role": "user", "content": "Hi"}]},
    ]
    for row in rows:
        for key, answer in (
            ("conversations", {"from": "gpt", "value": "Hello"}),
            ("messages", {"role": "assistant", "content": "Hello"}),
        ):
            if row[key]:
                row[key].append(answer)
    asked: list[Any] = []

    class Builder:
        hash = "c" * 40

        def __init__(self, *names: Any, **options: Any) -> None:
            asked.append((names, options))

        def download_and_prepare(self) -> None:
            asked.append("downloaded")

        def as_dataset(self, split: str) -> datasets.Dataset:
            asked.append(split)
            return datasets.Dataset.from_list(rows)

    monkeypatch.setattr(datasets, "load_dataset_builder", Builder)
    commits: set[str] = set()
    result = list(read_rows(Source("hub:owner/name", "part", "test", "v1"), commits))
    assert asked == [(("owner/name", "part"), {"revision": "v1"}), "downloaded", "test"]
    assert commits == {"c" * 40}
    assert [parse_row(row)[0].id for row in result] == ["a", "b"]


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (datasets.exceptions.DatasetNotFoundError("no such dataset\nmore"), "no such dataset$"),
        (ValueError("Unknown split"), "Unknown split$"),
        (RuntimeError("Dataset scripts are no longer supported"), "scripts are no longer"),
        (ConnectionError(), "ConnectionError$"),
    ],
)
def test_a_hub_dataset_that_cannot_be_loaded_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, fault: Exception, why: str
) -> None:
    def load_dataset_builder(*names: Any, **options: Any) -> None:
        raise fault

    monkeypatch.setattr(datasets, "load_dataset_builder", load_dataset_builder)
    sentence = r"cannot load hub:owner/name \(subset None, split train, revision v1\): "
    with pytest.raises(UserError, match=f"{sentence}.*{why}"):
        list(read_rows(Source("hub:owner/name", revision="v1")))
