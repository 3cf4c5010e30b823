"""`make real` at its smallest: every step with the published model and real engines, killed in the
middle. Minutes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.builders.processes import code_of, kill_group, living
from tests.builders.waiting import wait_for

pytestmark = pytest.mark.long
ROOT = Path(__file__).resolve().parents[2]
VARIABLES = {
    "--packages": "EAGLE3_REAL_PACKAGES",
    "--vllm": "EAGLE3_VLLM_PYTHON",
    "--sglang": "EAGLE3_SGLANG_PYTHON",
}
MARK = "Qwortilein."
LIMIT = 1800.0  # seconds of a call, on a busy machine


@pytest.fixture(scope="module")
def places() -> list[str]:
    """Options that name the packages and the engines."""
    missing = [name for name in VARIABLES.values() if not os.environ.get(name)]
    if missing:
        pytest.skip(f"{', '.join(missing)} are not set: run `make test-real`")
    return [word for key, name in VARIABLES.items() for word in (key, os.environ[name])]


class Calls:
    """Calls of the command in a folder, each with all of its output."""

    def __init__(self, folder: Path, places: list[str]) -> None:
        self.folder, self.places = folder, places
        self.run = folder / "draft" / "results" / "smollm2"

    def start(self) -> tuple[subprocess.Popen, Path]:
        log = self.folder.with_suffix(".log")
        command = [sys.executable, "-m", "benchmarks.real", "--small", "--folder", self.folder]
        with open(log, "ab") as out:
            process = subprocess.Popen(
                [*command, *self.places],
                cwd=ROOT,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return process, log

    @property
    def record(self) -> Path:
        """Answers to the first shard of training as they come."""
        return self.run / "resume" / "answers" / "train-00000.jsonl"

    def answered(self) -> list[dict]:
        """What it holds; its last line may be half written, its first one names the shard."""
        if not self.record.exists():
            return []
        lines = self.record.read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines[1:-1]]

    def mark(self) -> None:
        """Put a word of ours into an answer that came."""
        lines = self.record.read_text(encoding="utf-8").splitlines(keepends=True)
        place = next(n for n, line in enumerate(lines[1:], 1) if json.loads(line)["content"])
        lines[place] = json.dumps(json.loads(lines[place]) | {"content": MARK}) + "\n"
        self.record.write_text("".join(lines), encoding="utf-8")

    def servers(self) -> list[int]:
        """Processes of engines that serve this folder's target."""
        import psutil

        target = str(self.folder / "target")
        every = psutil.process_iter(["pid", "cmdline"])
        return [p.pid for p in living(every) if target in (p.info["cmdline"] or ())]


@pytest.fixture(scope="module")
def calls(tmp_path_factory, places) -> Calls:
    return Calls(tmp_path_factory.mktemp("real") / "small", places)


@pytest.fixture(scope="module")
def result(calls) -> dict:
    """The figures of a run that was killed while the target answered."""
    calls.folder.mkdir()
    process, log = calls.start()

    def over() -> str | None:
        return None if process.poll() is None else log.read_text()[-4000:]

    try:
        wait_for(lambda: len(calls.answered()) >= 3, "three answers", LIMIT, hopeless=over)
    finally:
        kill_group(process)
    wait_for(lambda: not calls.servers(), "the servers to be gone")
    calls.mark()
    process, log = calls.start()
    try:
        assert code_of(process, "make real", log.read_text, LIMIT) == 0, log.read_text()[-4000:]
    finally:
        if process.poll() is None:
            kill_group(process)
    assert not calls.servers()
    return json.loads((calls.folder / "real.json").read_text())


def test_answers_before_a_kill_are_not_asked_for_again(calls, result) -> None:
    """A word that the target never said is in the shard where it was put."""
    answers = (calls.run / "answers" / "train" / "shard-00000.jsonl").read_text(encoding="utf-8")
    assert answers.count(MARK) == 1
    assert result["answers"]["starts"] == 1


def test_the_draft_has_learned_from_the_targets_own_answers(calls, result) -> None:
    assert result["training"]["tokens"] > 2000 and result["training"]["steps"] > 0
    for check in (calls.run / "hidden_states" / "train").glob("*.check.json"):
        figures = json.loads(check.read_text())
        # greedy answers of a server in float32 are the choices of transformers too
        assert figures["argmax_agrees"] > 0.97 * figures["rows"]
    assert result["decoded"]["greedy_identical"]
    assert set(result["decoded"]["sets"]) == {"problems", "requests", "talk"}


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_an_engine_gives_the_same_answers_with_the_draft_and_without(result, engine) -> None:
    (served,) = [one for one in result["served"] if one["engine"] == engine]
    assert {(row["concurrency"], row["drafts"]) for row in served["rows"]} == {
        (1, 0), (1, 3), (4, 0), (4, 3),
    }  # fmt: skip
    assert all(difference["near_tie"] for difference in served["differences"])
    for row in served["rows"]:
        assert row["answers_equal"] >= row["answers"] - len(served["differences"])
        assert row["tokens_per_second"]["median"] > 0
        if row["drafts"]:
            assert 1.0 <= row["acceptance_length"] <= 4.0 and row["speed_up"]["median"] > 0


def test_defaults_are_compared_on_the_run_and_decoded(calls, result) -> None:
    """`benchmarks.real.defaults`, with the prompts of the run."""
    record = calls.folder / "factors.jsonl"
    options = ["--epochs", "1", "--seeds", "0", "--prompts", "1", "--draft-tokens", "3"]
    choice = ["--factors", "depth", "--variants", "2 steps", "--record", record]
    command = [sys.executable, "-m", "benchmarks.real.defaults", "--run", calls.run]
    subprocess.run([*command, *options, *choice], cwd=ROOT, timeout=LIMIT, check=True)
    scores = [json.loads(line) for line in record.read_text().splitlines()]
    assert [score["name"] for score in scores] == ["default", "2 steps"]
    for score in scores:
        assert score["decoded"]["prompts"] == 3
        assert 1.0 <= score["decoded"]["acceptance_length"] <= 4.0
