"""Ctrl-C at a terminal: SIGINT to Snakemake, its shells and every process of its jobs at once."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.builders.hold import STEP, Hold
from tests.builders.processes import HEARS_INTERRUPTS, code_of, ended
from tests.rules.workflow import command, snakemake

pytestmark = [pytest.mark.dag, pytest.mark.long]
SPOOLED = "eagle3.data.rows:_write_sorted"  # half of the dataset job
OUT = Path("results/small")
TWO_RANKS: dict[str, Any] = {
    "train": {"pack_tokens": 1024, "epochs": 1},
    "resources": {"train": {"processes": 2, "save_interval": 1000}},
}


def interrupted(folder: Path, hold: Hold, processes: int, **options: Any) -> str:
    """What a call has printed that got Ctrl-C while so many processes of a job were held."""
    log = folder.parent / "interrupted.log"
    with open(log, "w") as out:
        process = subprocess.Popen(
            [*HEARS_INTERRUPTS, *command(folder, **options)],
            cwd=folder,
            stdout=out,
            stderr=out,
            env=os.environ | hold.environment,
            start_new_session=True,
        )
    hold.wait(processes, hopeless=ended(process, log.read_text))
    os.killpg(process.pid, signal.SIGINT)
    assert code_of(process, "Snakemake", log.read_text) != 0
    return log.read_text()


def sentences(text: str) -> list[str]:
    return re.findall(r"error: (.+)$", text, flags=re.MULTILINE)


def test_a_job_says_one_sentence_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    hold = Hold(tmp_path / "hold", ("workflow_scripts.prepare_dataset",), SPOOLED)
    rows = str(OUT / "dataset/rows.jsonl")
    text = interrupted(folder, hold, 1, target=rows)
    assert sentences(text) == [
        "stopped by Ctrl-C; the same command continues from what is finished"
    ]
    assert "Traceback" not in text
    assert not list((folder / OUT).rglob("rows*"))
    again = snakemake(folder, target=rows)
    assert again.code == 0 and again.jobs == {"dataset": 1}


def test_training_saves_and_goes_on_from_there(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    hold = Hold(tmp_path / "hold", ("workflow_scripts.train_stage",), STEP, 4)
    model = str(OUT / "checkpoints/stage-0001/model.safetensors")
    text = interrupted(folder, hold, 2, target=model, change=TWO_RANKS)
    (sentence,) = set(sentences(text))  # on the terminal, and once more in the failed job's log
    log = (folder / OUT / "logs/train/stage-0001.log").read_text()
    assert sentences(log) == [sentence]
    result = re.fullmatch(r"stopped by Ctrl-C at step (\d+); the next call .*", sentence)
    assert result is not None
    assert "Traceback" not in text
    resume = folder / OUT / "resume/stage-0001"
    assert [path.name for path in resume.glob("*step*")] == [f"step-{int(result[1]):08d}"]
    again = snakemake(folder, target=model, change=TWO_RANKS)
    assert again.code == 0 and again.jobs == {"train_stage": 1}
    assert f"going on from the save at step {result[1]}" in again.text
