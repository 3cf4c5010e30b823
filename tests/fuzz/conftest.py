"""How many files each reader was given, as a line of the table in docs/reliability.md."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.builders.damage import CASES


@pytest.fixture(scope="session", autouse=True)
def told() -> Iterator[None]:
    yield
    for reader, count in sorted(CASES.items()):
        print(f"\n| {reader} | {count:,} |", end="")
