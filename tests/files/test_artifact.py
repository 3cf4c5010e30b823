"""Files appear whole or not at all, and say what they are."""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from eagle3.errors import UserError
from eagle3.files.artifact import (
    FORMAT_VERSION,
    Manifest,
    Settings,
    atomic_path,
    canonical,
    digest,
    file_sha256,
    read_json,
    write_json,
    write_text,
)

SETTINGS = Settings("plan", {"train": {"epochs": 2}}, {"tokens": "abc"})
MANIFEST = Manifest.of("plan", SETTINGS, {"tokens-0": "f" * 64}, {"steps": 3})


def test_a_file_appears_whole_and_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file.txt"
    with atomic_path(path) as beside:
        assert beside.parent == path.parent
        beside.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("number", [1, 2])
def test_a_disk_that_fails_while_a_file_is_flushed_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """First the file is brought to the disk, then its name."""
    real, calls = os.fsync, []

    def failing(handle: int) -> None:
        calls.append(handle)
        if len(calls) == number:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(handle)

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(UserError, match=r"a: cannot be written: Input/output error"):
        write_text(tmp_path / "a", "x")
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("fault", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_interrupted_write_leaves_no_file_and_keeps_the_old_one(
    tmp_path: Path, fault: type[BaseException]
) -> None:
    for old in (None, "old"):
        path = tmp_path / f"{old}.txt"
        if old:
            path.write_text(old)
        with pytest.raises(fault), atomic_path(path) as beside:
            beside.write_text("half")
            raise fault
        assert list(tmp_path.glob(f"*{old}*")) == ([path] if old else [])
        assert not old or path.read_text() == old


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with atomic_path(path) as first, atomic_path(path) as second:
        first.write_text("first")
        second.write_text("second")
        assert first != second
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_writer_left_is_removed_on_nfs_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """flock(2): NFS emulates the lock, which then needs a file that is open for writing."""

    def flock(file: Any, operation: int) -> None:
        if operation & fcntl.LOCK_EX and fcntl.fcntl(file, fcntl.F_GETFL) & os.O_ACCMODE == 0:
            raise OSError(errno.EBADF, "Bad file descriptor")

    monkeypatch.setattr("fcntl.flock", flock)
    left = tmp_path / ".file.0123.tmp"
    left.write_bytes(bytes(1000))
    write_text(tmp_path / "file", "new")
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_canonical_text_is_equal_for_equal_values() -> None:
    assert canonical({"b": [1, 2.5], "a": "é"}) == '{"a":"\\u00e9","b":[1,2.5]}'
    assert canonical({"a": 1, "b": 2}) == canonical({"b": 2, "a": 1})
    assert digest("") == "e3b0c44298fc1c14"


def test_the_hash_of_a_file_is_that_of_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    assert file_sha256(tmp_path / "f").startswith("ba7816bf8f01cfea414140de5dae2223")


def test_settings_are_told_apart_by_any_value() -> None:
    assert Settings(**json.loads(SETTINGS.text)).digest == SETTINGS.digest
    others = [
        replace(SETTINGS, stage="other"),
        replace(SETTINGS, values={"train": {"epochs": 3}}),
        replace(SETTINGS, upstream={"tokens": "abd"}),
    ]
    assert len({s.digest for s in [SETTINGS, *others]}) == 4


def test_each_value_of_settings_has_a_line_of_its_own_without_an_open_brace() -> None:
    values = {"a": {"x": 1e-4, "y": "{split}", "z": {}, "w": {"deep": [1, {"k": None}]}}, "b": None}
    assert Settings("s", values, {"above": "abc"}).lines == [
        'a.w.deep = [1,\\u007b"k":null}]',
        "a.x = 0.0001",
        'a.y = "\\u007bsplit}"',
        "a.z = \\u007b}",
        "above (abc)",
        "b = null",
    ]


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"a": [1, 2.5, None, True], "é": "\u2028\ud800"},
        {"a": {str(i): i / 3 for i in range(20)}, "deep": [[{"x": 1e-300}]]},
        {"a": math.inf},
    ],
)
def test_json_is_read_back_as_it_was_written(tmp_path: Path, content: dict[str, Any]) -> None:
    path = tmp_path / "plan.json"
    write_json(path, content, MANIFEST)
    result, manifest = read_json(path, "plan", SETTINGS.digest)
    assert result == content
    assert replace(manifest, content_sha256="") == MANIFEST
    assert manifest.settings == asdict(SETTINGS)
    assert {"python", "numpy"} <= set(manifest.versions)


def test_keys_that_json_turns_into_text_keep_the_checksum(tmp_path: Path) -> None:
    write_json(tmp_path / "plan.json", {"by size": {i: i for i in range(12)}}, MANIFEST)
    result, _ = read_json(tmp_path / "plan.json", "plan")
    assert result["by size"]["11"] == 11


def test_content_that_is_not_json_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    write_json(path, {"a": 1}, MANIFEST)
    with pytest.raises(TypeError):
        write_json(path, {"a": {1, 2}}, MANIFEST)
    assert read_json(path, "plan")[0] == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_changed_content_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    write_json(path, {"steps": 30}, MANIFEST)
    path.write_text(path.read_text().replace('"steps": 30', '"steps": 31'))
    with pytest.raises(UserError) as caught:
        read_json(path, "plan")
    assert str(caught.value) == (
        f"{path}: content does not match its checksum: delete it and run snakemake again"
    )


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", '"text"', "3", "{}", "\udcff"),
        '{"manifest": 3}',
        '{"manifest": {"kind": "plan"}}',
        '{"manifest": {"kind": "plan", "settings": {}, "settings_digest": "", "new": 1}}',
    ],
)
def test_a_file_that_is_no_artefact_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "plan.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match=r"plan.json: is not a JSON artefact of this project \(.+"):
        read_json(path, "plan")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"plan.json: no such file$"):
        read_json(tmp_path / "plan.json", "plan")


def test_a_manifest_is_refused_for_its_kind_its_settings_or_its_format(tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    assert MANIFEST.require(path, "plan", SETTINGS.digest) is MANIFEST
    assert MANIFEST.require(path, "plan") is MANIFEST
    remake = "delete it and run snakemake again"
    faults = {
        f"{path}: is a 'plan' file, expected 'schedule'": (MANIFEST, "schedule", None),
        f"{path}: was made under other settings (digest {SETTINGS.digest}, this run expects 0): "
        f"{remake}": (MANIFEST, "plan", "0"),
        f"{path}: has format 99, this version reads format {FORMAT_VERSION}: {remake}": (
            replace(MANIFEST, format=99),
            "plan",
            None,
        ),
    }
    for sentence, (manifest, kind, wanted) in faults.items():
        with pytest.raises(UserError) as caught:
            manifest.require(path, kind, wanted)
        assert str(caught.value) == sentence


def test_text_is_written_as_utf8(tmp_path: Path) -> None:
    write_text(tmp_path / "t", "é\n")
    assert (tmp_path / "t").read_bytes() == b"\xc3\xa9\n"
