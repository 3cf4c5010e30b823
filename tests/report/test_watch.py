"""A run is watched by its files, while they grow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from eagle3.errors import UserError
from eagle3.report.watch import parts_of
from tests.builders.terminal import shown
from tests.builders.waiting import LIMIT

ROOT = Path(__file__).resolve().parents[2]


def run(folder: Path, shards: int, lines: dict[str, int], captures: int = 1) -> Path:
    """A run of four shards and twelve steps with some of its work done."""
    for number in range(shards):
        path = folder / f"hidden_states/train/stage-0001/shard-{number:05d}.check.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    for name, count in lines.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}\n" * count)
    plan = {"shards": 4, "captures": captures, "steps": 12}
    (folder / "plan.part").write_text(json.dumps(plan))
    (folder / "plan.part").replace(folder / "plan.json")  # somebody may be reading it
    return folder


def told(folder: Path) -> list[tuple[int, int]]:
    return [(part.done, part.total) for part in parts_of(folder)]


def test_steps_of_finished_stages_and_of_the_running_one_are_counted(tmp_path: Path) -> None:
    running = {"metrics/stage-0001.jsonl": 6, "resume/stage-0002/metrics.jsonl": 2}
    assert told(run(tmp_path, 3, running)) == [(3, 4), (8, 12)]
    with open(tmp_path / "resume/stage-0002/metrics.jsonl", "a") as metrics:
        metrics.write('{"half a li')
    assert told(tmp_path)[1] == (8, 12)
    assert told(run(tmp_path, 3, {}, captures=2))[0] == (3, 8)


def test_a_stage_that_is_just_being_finished_is_counted_once(tmp_path: Path) -> None:
    both = {"metrics/stage-0001.jsonl": 6, "resume/stage-0001/metrics.jsonl": 6}
    assert told(run(tmp_path, 4, both))[1] == (6, 12)


def scored(step: int, length: float = 1.5) -> str:
    figures = {"held_out_loss": 2.25, "held_out_acceptance_length": length}
    return json.dumps({"step": step, **figures}) + "\n"


def test_the_newest_score_inside_a_stage_is_noted(tmp_path: Path) -> None:
    run(tmp_path, 4, {"metrics/stage-0001.jsonl": 6, "resume/stage-0002/metrics.jsonl": 2})
    assert parts_of(tmp_path)[1].note == ""
    with open(tmp_path / "metrics/stage-0001.jsonl", "a") as metrics:
        metrics.write(scored(3) + scored(5, 1.25) + "{}\n")
    note = "held-out acceptance length 1.250 and loss 2.2500 after step 6"
    assert parts_of(tmp_path)[1].note == note
    with open(tmp_path / "resume/stage-0002/metrics.jsonl", "a") as metrics:
        metrics.write(scored(8, 1.75) + scored(11)[:-5])  # half a line
    assert "1.750 and loss 2.2500 after step 9" in parts_of(tmp_path)[1].note


def test_nothing_is_known_before_the_plan_and_a_wrong_folder_is_named(tmp_path: Path) -> None:
    assert parts_of(tmp_path) == []
    with pytest.raises(UserError, match=r"nowhere: no such run; give its folder"):
        parts_of(tmp_path / "nowhere")


def watch(folder: Path, stderr: int) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "workflow_scripts.watch", str(folder), "--every", "0.1"],
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


def test_a_pipe_gets_a_line_for_each_change_until_the_report_is_there(tmp_path: Path) -> None:
    run(tmp_path, 3, {"resume/stage-0001/metrics.jsonl": 5})
    process = watch(tmp_path, subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == "hidden states 3/4 shards, training 5/12 steps\n"
    (tmp_path / "report.html").write_text("of an earlier run")
    run(tmp_path, 4, {"resume/stage-0001/metrics.jsonl": 11})
    with open(tmp_path / "resume/stage-0001/metrics.jsonl", "a") as metrics:
        metrics.write(scored(11))
    assert (
        process.communicate(timeout=LIMIT)[0]
        .splitlines()[-1]
        .endswith(
            "training 12/12 steps, held-out acceptance length 1.500 and loss 2.2500 after step 12"
        )
    )
    assert process.returncode == 0


def test_a_terminal_gets_a_bar_for_each_part(tmp_path: Path) -> None:
    run(tmp_path, 4, {"metrics/stage-0001.jsonl": 12})
    (tmp_path / "report.html").write_text("done")
    text = shown(partial(watch, tmp_path))
    assert "hidden states: 100%|" in text and "4/4 [" in text
    assert "training     : 100%|" in text and "12/12 [" in text
