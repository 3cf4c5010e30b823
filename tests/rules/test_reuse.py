"""The table of docs/reuse.md on real runs: what ran, what stayed, and that no job is left."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.builders.hold import WRITE, Hold
from tests.rules.workflow import ROOT, killed_while_held, snakemake

pytestmark = [pytest.mark.dag, pytest.mark.long]
DELIVERY = {"export": 1, "evaluate": 1, "report": 1}
TRAINING = {"train_stage": 2, "score_stage": 2, "select_best": 1, **DELIVERY}
CAPTURE = {"hidden_states": 2, "held_out_states": 1}
UPSTREAM = ("target/*", "dataset/*")
TOKENS = (*UPSTREAM, "tokens/train/*")
STATES = (*TOKENS, "hidden_states/train/*")
SHARD = "results/small/hidden_states/train/shard-00001.safetensors"

# change; jobs that run; what must stay as it is, dates included; what must have other bytes
MATRIX: dict[str, tuple[dict[str, Any], dict[str, int], tuple[str, ...], str]] = {
    "ttt steps": (
        {"train": {"ttt_steps": 3}},
        {"plan": 1, **TRAINING},
        (*STATES, "vocab/*", "schedule.json"),
        "checkpoints/stage-0002/model.safetensors",
    ),
    "epochs": (
        {"train": {"epochs": 1}},
        {"schedule": 1, "plan": 1, **TRAINING, "train_stage": 1, "score_stage": 1},
        (*STATES, "vocab/*"),
        "checkpoints/stage-0001/model.safetensors",
    ),
    "draft vocabulary": (
        {"vocab": {"draft_vocab_size": 100}},
        {"vocab": 1, "plan": 1, **TRAINING},
        (*STATES, "schedule.json"),
        "vocab/mapping.safetensors",
    ),
    "codec": (
        {"hidden_states": {"codec": "int8"}},
        {**CAPTURE, "plan": 1, **TRAINING},
        (*TOKENS, "vocab/*", "schedule.json"),
        "hidden_states/train/shard-00000.safetensors",
    ),
    "aux layers": (
        {"hidden_states": {"aux_layers": [0, 2, 5]}},
        {**CAPTURE, "plan": 1, **TRAINING},
        (*TOKENS, "vocab/*", "schedule.json"),
        "hidden_states/train/shard-00000.safetensors",
    ),
    "max length": (
        {"tokens": {"max_length": 256}},
        {"tokens": 3, "vocab": 1, "schedule": 1, **CAPTURE, "plan": 1, **TRAINING},
        UPSTREAM,
        "tokens/train/shard-00000.safetensors",
    ),
    "fewer samples": (
        {"dataset": {"num_samples": 64}},
        {"vocab": 1, "schedule": 1, "plan": 1, **TRAINING},
        STATES,
        "checkpoints/stage-0002/model.safetensors",
    ),
    "windows, states kept": (
        {"hidden_states": {"window_shards": 1}},
        {"schedule": 1, "plan": 1, **TRAINING, "train_stage": 4, "score_stage": 4},
        (*STATES, "vocab/*"),
        "checkpoints/stage-0002/model.safetensors",
    ),
    "evaluation prompts": (
        {"evaluation": {"num_prompts": 3}},
        {"evaluate": 1, "report": 1},
        # the model card beside them says what was measured
        (*STATES, "vocab/*", "checkpoints/*/*", "draft/*/*.json", "draft/*/*.safetensors"),
        "evaluation/acceptance.json",
    ),
}


def out(folder: Path) -> Path:
    return folder / "results" / "small"


def dates(folder: Path, patterns: Iterable[str]) -> dict[str, int]:
    result = [path for pattern in patterns for path in out(folder).glob(pattern)]
    assert result
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in result}


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("name", MATRIX)
def test_a_change_runs_what_it_touches_and_then_nothing(copy: Path, name: str) -> None:
    change, expected, kept, changed = MATRIX[name]
    before, old = dates(copy, kept), digest(out(copy) / changed)
    outcome = snakemake(copy, change=change)
    assert outcome.code == 0, outcome.text[-4000:]
    assert dict(outcome.jobs) == expected
    assert dates(copy, kept) == before
    assert digest(out(copy) / changed) != old
    assert snakemake(copy, "-n", change=change).idle


def test_going_back_runs_the_same_again_to_the_same_bytes(copy: Path) -> None:
    weights = out(copy) / "checkpoints/stage-0002/model.safetensors"
    old = digest(weights)
    change = {"train": {"learning_rate": 2.0e-3}}
    assert snakemake(copy, change=change).code == 0
    assert digest(weights) != old
    back = snakemake(copy)
    assert back.code == 0 and dict(back.jobs) == {"plan": 1, **TRAINING}
    assert digest(weights) == old
    assert snakemake(copy, "-n").idle


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the project that a test may edit."""
    folder = tmp_path / "project"
    folder.mkdir()
    for name in ("Snakefile", "config.yaml"):
        shutil.copy2(ROOT / name, folder)
    for name in ("data", "docs", "eagle3", "envs", "profiles", "rules", "workflow_scripts"):
        skipped = shutil.ignore_patterns("__pycache__", "images")
        shutil.copytree(ROOT / name, folder / name, ignore=skipped)
    return folder


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_the_project_elsewhere_reruns_nothing(finished: Path, project: Path) -> None:
    assert snakemake(finished, "-n", root=project).idle


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("eagle3/evaluation/decoding.py", {"evaluate": 1, "report": 1}),
        ("eagle3/report/page.html.jinja", {"report": 1}),
        ("eagle3/training/optimizer.py", TRAINING),
        ("eagle3/store/writer.py", {}),  # capture: by its version alone
        # tokens keep theirs, but what reads tokens imports it too
        ("eagle3/data/masks.py", {"vocab": 1, "schedule": 1, "plan": 1, **TRAINING}),
        ("eagle3/data/rows.py", {"evaluate": 1, "report": 1}),
    ],
)
def test_another_byte_of_a_stage_reruns_that_stage(
    finished: Path, project: Path, source: str, expected: dict[str, int]
) -> None:
    path = project / source
    path.write_text(path.read_text() + "\n")
    outcome = snakemake(finished, "-n", root=project)
    assert outcome.code == 0, outcome.text[-3000:]
    assert dict(outcome.jobs) == expected


def test_another_version_of_the_capture_captures_again(finished: Path, project: Path) -> None:
    versions = project / "rules" / "stage_versions.yaml"
    edit(versions, "hidden_states:\n  version: 2", "hidden_states:\n  version: 999")
    outcome = snakemake(finished, "-n", root=project)
    assert dict(outcome.jobs) == {**CAPTURE, **TRAINING}


def test_another_torch_reruns_what_follows_from_the_vocabulary_on(
    finished: Path, project: Path
) -> None:
    edit(project / "envs" / "constraints.txt", "torch==2.13.0", "torch==2.13.1")
    outcome = snakemake(finished, "-n", root=project)
    assert dict(outcome.jobs) == {"vocab": 1, "schedule": 1, "plan": 1, **TRAINING}
    edit(project / "envs" / "constraints.txt", "torch==2.13.1", "torch==2.13.0")
    edit(project / "envs" / "constraints.txt", "ruff==", "ruff==99.")
    assert snakemake(finished, "-n", root=project).idle


def test_a_touched_token_shard_reruns_nothing(copy: Path) -> None:
    for path in out(copy).glob("tokens/train/*"):
        assert path.stat().st_size < 1_000_000  # Snakemake compares contents up to this size
        os.utime(path)
    assert snakemake(copy, "-n").idle


def test_touched_states_retrain_since_snakemake_knows_large_files_by_date(copy: Path) -> None:
    os.utime(copy / SHARD)
    assert dict(snakemake(copy, "-n").jobs) == TRAINING


def test_a_deleted_shard_comes_back_by_name_only(copy: Path) -> None:
    old = digest(copy / SHARD)
    (copy / SHARD).unlink()
    assert snakemake(copy, "-n").idle
    outcome = snakemake(copy, target=SHARD)
    assert outcome.code == 0 and dict(outcome.jobs) == {"hidden_states": 1}
    assert digest(copy / SHARD) == old
    # it is newer than what was trained from it, and large: as above
    assert dict(snakemake(copy, "-n").jobs) == TRAINING


def test_a_killed_dag_goes_on_with_what_is_missing(copy: Path) -> None:
    first = copy / SHARD.replace("00001", "00000")
    shutil.rmtree(out(copy) / "hidden_states")
    wanted = [SHARD, str(first.relative_to(copy))]
    # the one shard is whole when the other's job is in the middle of it
    capture = ("workflow_scripts.capture_hidden_states", "--shard 00001")
    hold = Hold(copy.parent / "hold", capture, WRITE, 2)
    killed_while_held(copy, hold, first.exists, target=wanted)
    assert not (copy / SHARD).exists()
    assert snakemake(copy, "--unlock").code == 0
    outcome = snakemake(copy)
    assert outcome.code == 0, outcome.text[-4000:]
    assert 1 <= outcome.jobs["hidden_states"] <= 2
    assert snakemake(copy, "-n").idle
    assert not list(out(copy).rglob("*.tmp"))
