"""A capture whose engine is not there is told of before the first job."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from eagle3.config.configuration import Config
from eagle3.workflow.engine_python import engine_warnings


def warnings(path: Path | str, **sections: Any) -> list[str]:
    config = {"run": "any", "hidden_states": {"backend": "sglang"}} | sections
    return list(engine_warnings(Config.of(config), str(path)))


def program(path: Path, line: str) -> Path:
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)
    return path


def test_an_interpreter_without_the_engine_is_named(tmp_path: Path) -> None:
    [sentence] = warnings(Path(sys.executable).parent)
    assert "python has no package sglang: name the interpreter" in sentence
    assert "resources.capture.sglang_python, or call snakemake with --sdm" in sentence
    [sentence] = warnings(tmp_path)
    assert "there is no interpreter 'python'" in sentence
    capture = {"capture": {"sglang_python": str(tmp_path / "gone")}}
    [sentence] = warnings("", resources=capture)
    assert f"there is no interpreter '{tmp_path / 'gone'}'" in sentence


def test_nothing_is_said_where_the_engine_is_there_or_not_needed(tmp_path: Path) -> None:
    program(tmp_path / "python", "exit 0")
    assert warnings(tmp_path) == []
    assert warnings("/nowhere", hidden_states={"backend": "hf"}) == []
    source = {"kind": "run", "path": "results/other"}
    assert warnings("/nowhere", hidden_states={"backend": "sglang", "source": source}) == []


@pytest.mark.parametrize("line", ["exit 3", "kill -9 $$"])
def test_what_is_not_known_is_left_to_the_job(tmp_path: Path, line: str) -> None:
    program(tmp_path / "python", line)
    assert warnings(tmp_path) == []
