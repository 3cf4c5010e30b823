"""One finished run for all tests of the DAG; each test works on a copy of its own."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.rules.workflow import snakemake


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the small run went through."""
    folder = tmp_path_factory.mktemp("dag") / "finished"
    folder.mkdir()
    outcome = snakemake(folder)
    assert outcome.code == 0, outcome.text[-8000:]
    return folder


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, with the dates of its files."""
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder, symlinks=True)
    return folder
