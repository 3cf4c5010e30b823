"""A run is watched by its files, while they grow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

from tests.builders.terminal import shown
from tests.builders.waiting import LIMIT
from tests.cli.conftest import write
from tests.cli.test_status import prepared, touch

ROOT = Path(__file__).resolve().parents[2]
LINE = '{"seconds": 1.0}\n'
FOLLOW = """
import sys
from pathlib import Path
from eagle3.cli.follow import follow
from eagle3.run import load_run
follow(load_run(Path("results/one")), Path.cwd(), every=0.1)
"""


def watch(folder: Path, stderr: int) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", FOLLOW],
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


def finish(run, folder: Path) -> None:
    paths = run.paths
    touch(folder, [*run.capture_checks(), paths.states_check("eval", 0)])
    write(folder / paths.metrics(1), LINE * 10)
    scored = {"step": 19, "held_out_loss": 2.25, "held_out_acceptance_length": 1.5}
    write(folder / paths.metrics(2), LINE * 9 + json.dumps(scored) + "\n")
    touch(folder, [*run.stage_scores(), paths.choice, paths.acceptance])
    touch(folder, [*(paths.draft(name) for name in run.config.export.formats), paths.report])


def test_a_pipe_gets_a_line_for_each_change_until_the_report_is_there(make_run, tmp_path) -> None:
    run = make_run("one", target="/models/m")
    prepared(run, tmp_path)
    touch(tmp_path, run.capture_checks()[:1])
    write(tmp_path / run.paths.resume(1) / "metrics.jsonl", LINE * 5 + '{"half a li')
    process = watch(tmp_path, subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == "hidden states 1/3 shards, training 5/20 steps\n"
    finish(run, tmp_path)
    lines = process.communicate(timeout=LIMIT)[0].splitlines()
    score = "held-out acceptance length 1.500 and loss 2.2500 after step 20"
    assert lines[-1] == f"hidden states 3/3 shards, training 20/20 steps, {score}"
    assert process.returncode == 0


def test_a_terminal_gets_a_bar_for_each_part(make_run, tmp_path) -> None:
    run = make_run("one", target="/models/m")
    prepared(run, tmp_path)
    finish(run, tmp_path)
    text = shown(partial(watch, tmp_path))
    assert "hidden states: 100%|" in text and "3/3 [" in text
    assert "training     : 100%|" in text and "20/20 [" in text


def test_a_run_without_a_schedule_is_watched_by_its_shards(make_run, tmp_path) -> None:
    run = make_run("one", target="/models/m")
    process = watch(tmp_path, subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == "hidden states 0/3 shards\n"
    prepared(run, tmp_path)
    finish(run, tmp_path)
    assert "training 20/20 steps" in process.communicate(timeout=LIMIT)[0]
