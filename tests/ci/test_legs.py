"""Which legs of CI are due, and that no file and no test is without one."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / ".ci" / "legs.py"
found = importlib.util.spec_from_file_location("legs", SCRIPT)
assert found and found.loader
legs = sys.modules["legs"] = importlib.util.module_from_spec(found)
found.loader.exec_module(legs)

TRACKED = subprocess.run(
    ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
).stdout.splitlines()
MAKEFILE = (ROOT / "Makefile").read_text()
DAY = date(2026, 1, 1)


def targets_of(name: str) -> str:
    """What a target of the Makefile runs."""
    return re.search(rf"^{name}:.*\n((?:\t.*\n)+)", MAKEFILE, flags=re.MULTILINE)[1]


def test_every_file_has_a_leg_or_make_test() -> None:
    prefixes = legs.ALWAYS + tuple(p for leg in legs.LEGS.values() for p in leg.covers)
    assert [file for file in TRACKED if not file.startswith(prefixes)] == []


@pytest.mark.parametrize("name", [*legs.LEGS, "always"])
def test_every_prefix_is_a_folder_or_a_file(name: str) -> None:
    for prefix in legs.LEGS[name].covers if name in legs.LEGS else legs.ALWAYS:
        assert legs.covered(TRACKED, (prefix,)), prefix


@pytest.mark.parametrize("name", legs.LEGS)
def test_every_leg_is_a_target_and_part_of_all(name: str) -> None:
    assert targets_of(name)
    everything = re.search(r"^test-all:(.*)$", MAKEFILE, flags=re.MULTILINE)[1].split()
    assert everything == ["test", *legs.LEGS]


def test_every_long_test_belongs_to_a_leg() -> None:
    folders = [f for name in legs.LEGS for f in re.findall(r"\btests/\S+", targets_of(name))]
    marked = [f for f in TRACKED if f.endswith(".py") and "mark.long" in (ROOT / f).read_text()]
    own = str(Path(__file__).relative_to(ROOT))
    assert [f for f in marked if f != own and not f.startswith(tuple(folders))] == []


@pytest.mark.parametrize(
    ("file", "due"),
    [
        ("tests/slurm/cluster.sh", {"test-slurm"}),
        ("envs/sglang.def", {"test-container", "test-sglang"}),
        (
            "eagle3/store/codecs.py",
            {"test-dag", "test-ranks", "test-sglang", "test-vllm", "test-faults"},
        ),
        ("envs/vllm.yaml", {"test-container", "test-vllm"}),
        ("docs/capture.md", set()),
    ],
)
def test_a_changed_file_makes_its_legs_due(file: str, due: set[str]) -> None:
    for day in range(len(legs.LEGS)):
        today = DAY + timedelta(days=day)
        why = legs.reasons(["README.md", file], today)
        assert {n for n, w in why.items() if file in w} == due
        turn = legs.in_turn(today)
        others = {n for n, w in why.items() if not w.startswith("no file")} - due
        assert others == {turn} - due


def test_every_leg_has_its_turn_every_few_days() -> None:
    turns = [legs.in_turn(DAY + timedelta(days=n)) for n in range(len(legs.LEGS))]
    assert set(turns) == set(legs.LEGS)
    for name in legs.LEGS:
        assert legs.in_turn(legs.next_turn(name, DAY)) == name


def test_changes_are_those_since_a_commit_that_is_a_day_old(tmp_path: Path) -> None:
    """In a repository of its own, with a commit of last week, one of this hour, and an edit."""
    (tmp_path / ".ci").mkdir()
    shutil.copy(SCRIPT, tmp_path / ".ci")
    dates = {}

    def git(*words: str) -> None:
        who = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        environment = os.environ | dates
        subprocess.run(["git", *who, *words], cwd=tmp_path, check=True, env=environment)

    def due(*words: str) -> set[str]:
        command = [sys.executable, str(tmp_path / ".ci" / "legs.py"), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        lines = [line.split(maxsplit=3) for line in done.stdout.splitlines()]
        assert [name for _, name, _, _ in lines] == list(legs.LEGS)
        return {name for word, name, _, why in lines if word == "due" and "turn" not in why}

    git("init", "--quiet")
    for name, when in (("old", "2026-01-01T00:00:00"), ("Snakefile", None)):
        (tmp_path / name).touch()
        dates = {"GIT_AUTHOR_DATE": when, "GIT_COMMITTER_DATE": when} if when else {}
        git("add", name)
        git("commit", "--quiet", "-m", name)
        if when is None:
            assert due() == {"test-dag"}
            assert due("--since", "HEAD") == set()
            assert due("--all") == set(legs.LEGS)
    (tmp_path / "old").write_text("x")
    (tmp_path / "tests/slurm").mkdir(parents=True)
    (tmp_path / "tests/slurm/new.py").touch()
    git("add", ".")
    assert due("--since", "HEAD") == {"test-slurm"}
