"""The job that chooses a checkpoint copies the one that was scored, or says what does not fit."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from eagle3.files.artifact import MANIFEST_KEY, Manifest, part_of, write_json
from eagle3.training.checkpoint import MODEL, Checkpoint, write_checkpoint
from eagle3.training.early_stop import SCORE
from tests.builders.run_file import PATHS, save_run
from tests.builders.shards import stage_settings

ROOT = Path(__file__).resolve().parents[2]
TRAIN = stage_settings("train", lr=1)
SETTINGS = stage_settings("score", {"train": TRAIN.digest}, epochs=1)
LENGTHS = (1.5, 2.5, 2.0)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Three stages with their scores; the second is the best."""
    for stage, length in enumerate(LENGTHS, start=1):
        folder = (tmp_path / PATHS.checkpoint(stage)).parent
        weights = {"fc.weight": torch.full((2, 2), float(stage))}
        write_checkpoint(folder, Checkpoint(weights, {}, {"global_step": stage}), TRAIN, {})
        model = json.loads((folder / "state.json").read_text())[MANIFEST_KEY]["inputs"]["model"]
        score = {
            "stage": stage,
            "epochs_done": float(stage),
            "acceptance_length": length,
            "acceptance_length_ci95": [length, length],
            "per_position_acceptance": [0.5],
            "stopped_early": False,
            "walk": {"acceptance_length": length},
        }
        path = tmp_path / PATHS.score(stage)
        manifest = Manifest.of(SCORE, SETTINGS, {"model": model}, part=part_of(path))
        write_json(path, score, manifest)
    return tmp_path


def select(folder: Path) -> subprocess.CompletedProcess[str]:
    run = save_run(folder, [SETTINGS], train={"epochs": 3})
    return subprocess.run(
        [
            *(sys.executable, "-m", "workflow_scripts.select_best"),
            *("--run-file", str(run), "--out", PATHS.best()),
        ],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_checkpoint_of_the_best_score_is_copied(run: Path) -> None:
    done = select(run)
    assert done.returncode == 0, done.stderr
    assert json.loads((run / PATHS.choice).read_text())["stage"] == 2
    wanted = run / PATHS.checkpoint(2)
    assert (run / PATHS.best()).read_bytes() == wanted.read_bytes()


def test_the_score_of_another_stage_under_a_stages_name_is_refused(run: Path) -> None:
    shutil.copy(run / PATHS.score(2), run / PATHS.score(3))
    done = select(run)
    assert done.returncode == 1
    assert "stage-0003.json: is 'evaluation/stage-0002' under another name" in done.stderr


def test_a_score_of_another_checkpoint_is_refused(run: Path) -> None:
    for name in (MODEL, "state.json"):
        shutil.copy(run / PATHS.checkpoint(1, name), run / PATHS.checkpoint(2, name))
    done = select(run)
    assert done.returncode == 1
    assert "evaluation/stage-0002.json: scores another checkpoint than" in done.stderr
