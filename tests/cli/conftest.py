"""The command, called in this process in a folder of its own, and runs for it to look at."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from eagle3.cli.main import main
from eagle3.data.sources import Source
from eagle3.run import Run, load_run
from tests.builders.run_file import save_run


@dataclass(frozen=True)
class Outcome:
    """How a call ended and what it printed."""

    code: int
    out: str
    err: str


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Outcome]:
    """Calls `eagle3` with arguments, in `tmp_path`."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["eagle3", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        said = capfd.readouterr()
        return Outcome(int(end.value.code or 0), said.out, said.err)

    return call


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Run]:
    """Plans a run in `tmp_path`: two training shards, one held out, two stages."""

    def make(name: str, target: str | None = None, **sections: Any) -> Run:
        source = Source("chats.jsonl")
        config: dict[str, Any] = {
            "dataset": {"num_samples": 8, "shard_size": 4},
            "evaluation": {"held_out_samples": 4},
            "train": {"epochs": 2},
            **sections,
        }
        run = load_run(
            save_run(tmp_path / ".snakemake" / "eagle3", [], target, [source], run=name, **config)
        )
        write(tmp_path / run.paths.snapshot, run.to_text())
        return run

    return make


def write(path: Path, content: Any = "") -> None:
    """A file of text, or of JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
