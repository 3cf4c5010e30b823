"""Locks where the file system has them, and where it has none."""

from __future__ import annotations

import errno
import fcntl
import logging
from pathlib import Path

import pytest

from eagle3.errors import UserError
from eagle3.files.lock import hold


def test_a_file_is_held_by_one(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with open(path, "w") as first, open(path) as second:
        hold(first, "somebody has it")
        with pytest.raises(UserError, match="somebody has it"):
            hold(second, "somebody has it")
        first.close()
        hold(second, "somebody has it")


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_stops_nobody(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    number: int,
) -> None:
    def refused(*_: object) -> None:
        raise OSError(number, "no locks here")

    monkeypatch.setattr(fcntl, "flock", refused)
    with caplog.at_level(logging.WARNING), open(tmp_path / "lock", "w") as file:
        hold(file, "somebody has it")
    assert "lock: cannot be locked (no locks here)" in caplog.text
