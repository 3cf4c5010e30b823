"""Lists of files on a command line."""

from __future__ import annotations

from pathlib import Path

from workflow_scripts import entry


def parsed(*words: str) -> list[object]:
    args = entry.parser(None)
    args.add_argument("--files", action=entry.Files, nargs="+", required=True)
    settings = '{"stage": "x", "upstream": {}, "values": {}}'
    return args.parse_args(["--settings", settings, "--files", *words]).files


def test_a_range_stands_for_all_its_files_in_order() -> None:
    found = parsed("a/shard-{00098..00101}.safetensors")
    assert found == [Path(f"a/shard-{n}.safetensors") for n in ("00098", "00099", "00100", "00101")]


def test_ranges_names_and_objects_go_together() -> None:
    found = parsed("a.json", "b-{1..2}.json", "s3://bucket/c-{01..02}.x")
    assert found[:3] == [Path("a.json"), Path("b-1.json"), Path("b-2.json")]
    assert found[3:] == ["s3://bucket/c-01.x", "s3://bucket/c-02.x"]
