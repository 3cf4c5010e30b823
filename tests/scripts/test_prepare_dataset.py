"""The job that reads a source: datasets of a hub, read by the real client from a real server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import pytest

from eagle3.data.catalogue import CATALOGUE
from eagle3.data.sources import Source
from eagle3.files.artifact import Settings
from tests.builders.hub import Hub, running
from tests.builders.run_file import PATHS, save_run

ROOT = Path(__file__).resolve().parents[2]
OLD, NEW = "a" * 40, "b" * 40
ALPACA = CATALOGUE["codealpaca-20k"]
VALUES = {"seed": 1, "eval_fraction": 0.3, "deduplicate": False}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What each commit has: the word in it says which one it is."""
    folder = tmp_path_factory.mktemp("hub")

    def made(name: str, rows: list[dict[str, Any]]) -> Path:
        datasets.Dataset.from_list(rows).to_parquet(str(folder / name))
        return folder / name

    def turns(word: str) -> list[dict[str, Any]]:
        return [
            {"messages": [{"role": r, "content": f"{word} {n}"} for r in ("user", "assistant")]}
            for n in range(20)
        ]

    def tasks(word: str) -> list[dict[str, Any]]:
        return [{"instruction": f"{word} {n}", "input": "", "output": f"{n}"} for n in range(20)]

    return {
        "old": made("old.parquet", turns("old")),
        "new": made("new.parquet", turns("new")),
        "pinned": made("pinned.parquet", tasks("pinned")),
        "later": made("later.parquet", tasks("later")),
    }


def prepared(hub: Hub, folder: Path, source: Source) -> tuple[str, dict[str, Any]]:
    """The rows as text, and the report."""
    settings = Settings("dataset", {"dataset": VALUES}, {})
    dataset = {"num_samples": 5, "max_bad_fraction": 0.1}
    folder.mkdir(exist_ok=True)
    run = save_run(folder, [settings], sources=[source], dataset=dataset)
    home = {"HF_ENDPOINT": hub.address, "HF_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "workflow_scripts.prepare_dataset", "--run-file", str(run)],
        cwd=folder,
        env={**os.environ, **home, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads((folder / PATHS.rows_report).read_text())
    return (folder / PATHS.rows).read_text(), report


def commits_in(report: dict[str, Any]) -> list[str]:
    (source,) = report["sources"].values()
    return source["commits"]


def test_a_name_of_the_catalogue_is_read_at_its_commit(
    tmp_path: Path, files: dict[str, Path]
) -> None:
    assert ALPACA.revision is not None
    commits = {ALPACA.revision: files["pinned"], NEW: files["later"]}
    with running(Hub({ALPACA.repository: commits})) as hub:
        rows, report = prepared(hub, tmp_path, Source("codealpaca-20k"))
    assert "pinned 3" in rows and "later" not in rows
    assert hub.read == [(ALPACA.repository, ALPACA.revision)]
    assert commits_in(report) == [ALPACA.revision]


@pytest.mark.parametrize(("revision", "word", "commit"), [(None, "new", NEW), (OLD, "old", OLD)])
def test_the_report_names_the_commit_that_was_read(
    tmp_path: Path, files: dict[str, Path], revision: str | None, word: str, commit: str
) -> None:
    with running(Hub({"owner/chats": {OLD: files["old"], NEW: files["new"]}})) as hub:
        rows, report = prepared(hub, tmp_path, Source("hub:owner/chats", revision=revision))
    assert f"{word} 3" in rows
    assert hub.read == [("owner/chats", commit)]
    assert commits_in(report) == [commit]
