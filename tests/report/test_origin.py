"""Where a run comes from: commit or version, date, machine, names of datasets."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

import eagle3
from eagle3.data.sources import Source
from eagle3.report.origin import (
    code_version,
    dataset_names,
    date_of_report,
    devices_text,
    machine_text,
)

VERSION = f"version {eagle3.__version__}"


def git(folder: Path, *words: str) -> str:
    who = {f"GIT_{role}_{what}": "x@y" for role in ("AUTHOR", "COMMITTER") for what in WHAT}
    return subprocess.run(
        ["git", "-C", str(folder), *words],
        env=os.environ | who,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()


WHAT = ("NAME", "EMAIL")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository of one commit."""
    folder = tmp_path / "project"
    folder.mkdir()
    git(folder, "init", "--quiet")
    (folder / "code.py").write_text("1\n")
    git(folder, "add", "code.py")
    git(folder, "commit", "--quiet", "--message", "first")
    return folder


def test_a_repository_is_known_by_its_commit_and_local_changes(repository: Path) -> None:
    commit = f"commit {git(repository, 'rev-parse', 'HEAD')[:12]}"
    assert code_version(repository) == commit
    (repository / "results").mkdir()
    (repository / "results" / "new").write_text("of no code")
    assert code_version(repository) == commit
    (repository / "code.py").write_text("2\n")
    assert code_version(repository) == f"{commit} with local changes"


def test_a_project_that_is_no_repository_itself_is_known_by_its_version(
    repository: Path, tmp_path: Path
) -> None:
    inside = repository / "vendored"
    inside.mkdir()
    assert code_version(inside) == VERSION
    assert code_version(tmp_path) == VERSION


def test_no_git_and_no_commit_give_the_version_too(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    git(empty, "init", "--quiet")
    assert code_version(empty) == VERSION
    monkeypatch.setenv("PATH", str(tmp_path))
    assert code_version(repository) == VERSION


def test_the_date_can_be_set_for_reproducible_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1777863720")
    assert date_of_report() == "2026-05-04 03:02 UTC"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "")
    assert date_of_report() > "2026-05-04 03:02 UTC"


def test_datasets_are_named_without_the_folders_of_this_machine() -> None:
    places = ("ultrachat", "hub:owner/chats", "/home/somebody/mine.jsonl")
    names = dataset_names([Source(place) for place in places])
    assert names == ("HuggingFaceH4/ultrachat_200k", "owner/chats", "mine")


def test_machines_and_ranks_are_named_once() -> None:
    machine = {"processor": "CPU", "cores": 4, "memory_bytes": 2**34, "gpus": []}
    assert machine_text(machine) == "CPU, 4 cores, 16.0 GiB"
    with_gpus = machine | {"gpus": ["H200", "H200", "A40"]}
    assert machine_text(with_gpus) == "2 x H200, 1 x A40, CPU, 4 cores, 16.0 GiB"
    assert devices_text([(1, "CPU")] * 9, "cpu") == "CPU"
    assert devices_text([(2, "CPU")], "cpu") == "2 processes on CPU"
    moved = [(8, "H100"), (8, "H100"), (4, "H200")]
    assert devices_text(moved, "cuda") == "8 x H100, then 4 x H200"
