"""Runs that are disturbed in every way there is end with the bits of one that was left alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from kinds import KINDS
from soak import soak
from volume import Volume

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faults")
    try:
        Volume(folder / "probe").close()
    except PermissionError as fault:
        pytest.skip(f"nothing can be mounted here: {fault}")
    return folder


def test_every_kind_of_fault_leaves_the_draft_as_it_would_have_been(place: Path) -> None:
    tally = soak(len(KINDS), seed=0, names=list(KINDS), place=place)
    print(tally.table())
    assert not tally.broken
    assert tally.faults.total() >= len(KINDS) and tally.rounds >= 1
