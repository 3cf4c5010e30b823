"""One run without Slurm, whose weights every run on the cluster must repeat."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.rules.workflow import snakemake
from tests.slurm.slurm_calls import TRAINING, Call, available


@pytest.fixture(scope="session", autouse=True)
def cluster():
    """Every test here is skipped without one."""
    if not available():
        pytest.skip("no test cluster: run `make test-slurm`")


@pytest.fixture(scope="session")
def local(cluster, tmp_path_factory) -> Path:
    """A folder in which the run went through on this machine alone."""
    folder = tmp_path_factory.mktemp("slurm") / "local"
    folder.mkdir()
    outcome = snakemake(folder, change=TRAINING)
    assert outcome.code == 0, outcome.text[-8000:]
    return folder


@pytest.fixture
def start():
    """Starts a call; one that a failed test leaves behind is ended, its jobs with it."""
    calls: list[Call] = []

    def started(*given, **named) -> Call:
        calls.append(Call(*given, **named))
        return calls[-1]

    yield started
    for call in calls:
        call.end()
