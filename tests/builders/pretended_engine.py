"""Stand-ins for engines, and what a capture through one leaves behind: nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from eagle3.engines.separate.request import EngineRequest
from tests.builders.engine import CONSUMING, engine_request, run_marked, wait_for_none
from tests.builders.waiting import wait_for

FAKES = Path(__file__).resolve().parents[1] / "engines"


@contextmanager
def pretended(
    engine: str, version: str, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> Iterator[str]:
    """The stand-in for an engine is installed for processes started here, which bear the mark that
    this gives; at the end none of them runs, and none of their folders is left."""
    pretend(folder / "installed", engine, version)
    places = [FAKES / f"fake_{engine}", CONSUMING, folder / "installed"]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, places)))
    temporary = folder / "temporary"
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr("tempfile.tempdir", None)
    temporary.mkdir()
    chosen = uuid4().hex
    run_marked(monkeypatch, chosen)
    yield chosen
    wait_for_none(chosen)
    wait_for(
        lambda: not list(temporary.glob("eagle3-*")),
        "the engine's folders to be removed",
        state=lambda: list(temporary.iterdir()),
    )


def pretend(folder: Path, engine: str, version: str) -> None:
    """Make Python believe that a version of an engine is installed."""
    info = folder / f"{engine}-1.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {engine}\nVersion: {version}\n")


def file_request(
    target: Path,
    folder: Path,
    documents: Mapping[int, Sequence[int]],
    arguments: dict[str, Any],
    engine: str = "sglang",
    **more: Any,
) -> EngineRequest:
    """A request that writes a file for each document."""
    lengths = [(number, len(ids)) for number, ids in documents.items()]
    folder.mkdir()
    consumer = {"folder": str(folder), "lengths": lengths}
    return engine_request(target, "consumers:Files", arguments, engine=engine, **more, **consumer)
