"""Rolling mode on real Snakemake runs: two windows on the disk at any moment, the same weights."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.builders.hold import STEP, Hold
from tests.rules.workflow import killed_while_held, snakemake

pytestmark = [pytest.mark.dag, pytest.mark.long]

FOUR = {"dataset": {"num_samples": 256}, "train": {"epochs": 1}}
KEEP = FOUR | {"hidden_states": {"window_shards": 1}}
ROLLING = FOUR | {"hidden_states": {"window_shards": 1, "keep": False}}
LAST = "results/small/checkpoints/stage-0004/model.safetensors"


def shards(folder: Path) -> list[Path]:
    """Shards of states on the disk, finished or not."""
    states = folder / "results" / "small" / "hidden_states" / "train"
    return [path for path in states.glob("stage-*/*") if ".safetensors" in path.name]


def weights(folder: Path, stage: int = 4) -> str:
    path = folder / f"results/small/checkpoints/stage-{stage:04d}/model.safetensors"
    return hashlib.sha256(path.read_bytes()).hexdigest()


@contextmanager
def watched(folder: Path) -> Iterator[list[int]]:
    """The most windows that lay on the disk at once, looked at fifty times a second."""
    seen, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            stages = {path.parent.name for path in shards(folder)}
            seen[0] = max(seen[0], len(stages))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()


@pytest.fixture(scope="module")
def prepared(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tokens of four shards, vocabulary, plan and schedule, but no states of these windows."""
    folder = tmp_path_factory.mktemp("rolling") / "prepared"
    shutil.copytree(finished, folder, symlinks=True)
    outcome = snakemake(folder, change=ROLLING, target="plan")
    assert outcome.code == 0, outcome.text[-4000:]
    return folder


@pytest.fixture
def start(prepared: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    shutil.copytree(prepared, folder, symlinks=True)
    return folder


@pytest.fixture(scope="module")
def rolled(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run in rolling mode."""
    folder = tmp_path_factory.mktemp("rolling") / "rolled"
    shutil.copytree(prepared, folder, symlinks=True)
    with watched(folder) as seen:
        outcome = snakemake(folder, change=ROLLING)
    assert outcome.code == 0, outcome.text[-4000:]
    assert outcome.jobs["hidden_states"] == outcome.jobs["train_stage"] == 4
    assert seen == [2]
    return folder


def test_a_run_ends_without_a_shard_and_a_second_call_does_nothing(rolled: Path) -> None:
    assert shards(rolled) == []
    again = snakemake(rolled, "-n", change=ROLLING)
    assert again.idle and not again.jobs


def test_the_same_stages_in_keep_mode_give_the_same_weights(rolled: Path, start: Path) -> None:
    outcome = snakemake(start, change=KEEP, target=LAST)
    assert outcome.code == 0, outcome.text[-4000:]
    # two of the four shards were captured before windows were asked for, and serve as they are
    assert dict(outcome.jobs) == {"hidden_states": 2, "train_stage": 4}
    for stage in (1, 2, 3, 4):
        assert weights(start, stage) == weights(rolled, stage)


def killed_in_stage_three(folder: Path) -> None:
    """Run until stage 3 is in its training, then kill Snakemake and all its jobs."""
    second = folder / "results/small/checkpoints/stage-0002/state.json"
    log = folder / "results/small/logs/train/stage-0003.log"
    training = Hold(
        folder.parent / "hold", ("workflow_scripts.train_stage", "--stage 0003"), STEP, 2
    )
    killed_while_held(
        folder,
        training,
        lambda: second.exists() and log.exists() and len(shards(folder)) >= 1,
        change=ROLLING,
        target=LAST,
    )


def test_after_a_kill_and_a_failed_stage_two_windows_are_enough(rolled: Path, start: Path) -> None:
    killed_in_stage_three(start)
    unlocked = snakemake(start, "--unlock", change=ROLLING)
    assert unlocked.code == 0
    lock = start / "results/small/resume/stage-0004/lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with watched(start) as seen:
        with open(lock, "w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            failed = snakemake(start, change=ROLLING, target=LAST)
        assert failed.code == 1
        assert "another process is training this stage" in failed.text
        finished = snakemake(start, change=ROLLING, target=LAST)
    assert finished.code == 0, finished.text[-4000:]
    assert dict(finished.jobs) == {"train_stage": 1}  # its window was still there
    assert seen[0] <= 2
    assert weights(start) == weights(rolled)
    assert shards(start) == []


def test_after_a_change_in_the_middle_two_windows_are_enough(rolled: Path, start: Path) -> None:
    killed_in_stage_three(start)
    change = ROLLING | {"train": {"epochs": 1, "learning_rate": 2.0e-3}}
    assert snakemake(start, "--unlock", change=change).code == 0
    with watched(start) as seen:
        outcome = snakemake(start, change=change, target=LAST)
    assert outcome.code == 0, outcome.text[-4000:]
    # what lay there was of windows whose stages have to wait again
    assert outcome.jobs["hidden_states"] == outcome.jobs["train_stage"] == 4
    assert seen[0] <= 2
    assert weights(start) != weights(rolled)


def test_several_epochs_capture_again_unless_a_stage_passes_several_times(rolled: Path) -> None:
    twice = ROLLING | {"train": {"epochs": 2}}
    planned = snakemake(rolled, "-n", change=twice).jobs
    assert planned["hidden_states"] == planned["train_stage"] == 8
    together = ROLLING | {"train": {"epochs": 2, "epochs_per_stage": 2}}
    planned = snakemake(rolled, "-n", change=together).jobs
    assert planned["hidden_states"] == planned["train_stage"] == 4


def test_shards_kept_on_purpose_can_be_removed_later(start: Path) -> None:
    two = ROLLING | {"dataset": {"num_samples": 128}}
    last = "results/small/checkpoints/stage-0002/model.safetensors"
    assert snakemake(start, "--notemp", change=two, target=last).code == 0
    assert len(shards(start)) == 2
    assert snakemake(start, "-n", change=two, target=last).idle
    assert snakemake(start, "--delete-temp-output", change=two, target=last).code == 0
    assert shards(start) == []
    assert snakemake(start, "-n", change=two, target=last).idle


def test_rolling_without_a_window_is_refused(tmp_path: Path) -> None:
    outcome = snakemake(tmp_path, "-n", change={"hidden_states": {"keep": False}})
    assert outcome.code == 1
    assert "hidden_states.keep is false but hidden_states.window_shards is null" in outcome.text
