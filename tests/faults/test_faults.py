"""Runs that are disturbed in every way there is end with the bits of one that was left alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.kinds import KINDS
from tests.faults.soak import soak
from tests.faults.volume import Volume

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faults")
    try:
        Volume(folder / "probe").close()
    except PermissionError as fault:
        pytest.skip(f"nothing can be mounted here: {fault}")
    return folder


def test_runs_with_many_faults_end_with_the_draft_of_an_undisturbed_one(place: Path) -> None:
    tally = soak(len(KINDS), seed=0, names=list(KINDS), place=place)
    print(tally.table())
    assert not tally.broken
    assert tally.faults.total() >= len(KINDS) and tally.rounds >= 1
    assert len(tally.faults) >= len(KINDS) // 2  # moments are random, and some kinds hit nothing
