"""Whatever ends a job, alone or under torchrun: one sentence, and no page of tracebacks."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from eagle3.data.sources import Source
from eagle3.files.artifact import Settings
from tests.builders.processes import HEARS_INTERRUPTS
from tests.builders.run_file import PATHS, save_run
from tests.builders.waiting import wait_for
from tests.faults.volume import Volume
from workflow_scripts.ending import INTERRUPTED, REMEDIES, sentence_of

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = os.environ | {
    "PYTHONPATH": str(ROOT),
    "OMP_NUM_THREADS": "1",
    "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "5",
}


def job(fault: str, processes: int, rank: int = 0) -> subprocess.CompletedProcess[str]:
    words = ["--gpus", "0", "--processes", str(processes), "--"]
    words += ["tests.builders.failing_job", fault, str(rank)]
    command = [*HEARS_INTERRUPTS, sys.executable, "-m", "workflow_scripts.launch", *words]
    return subprocess.run(
        command, env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize("number", sorted(REMEDIES), ids=lambda n: errno.errorcode[n])
def test_a_fault_of_the_disk_names_the_file_the_fault_and_a_remedy(number: int) -> None:
    said = sentence_of(OSError(number, os.strerror(number), "results/a"))
    assert said == f"results/a: {os.strerror(number)}: {REMEDIES[number]}"
    # a write to an open file does not know its name, and an unnamed file has a number for one
    for unnamed in (OSError(number, "any"), OSError(number, "any", 7)):
        said = sentence_of(unnamed)
        assert said is not None and said.startswith("a temporary file or the log: ")


def test_a_fault_of_the_code_keeps_its_traceback() -> None:
    assert sentence_of(ZeroDivisionError("x")) is None
    assert sentence_of(FileNotFoundError(errno.ENOENT, "no such file", "x")) is None
    done = job("bug", 1)
    assert done.returncode == 1 and "ZeroDivisionError: a fault of the code" in done.stderr


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize(
    ("fault", "code", "sentence"),
    [
        ("sentence", 1, "this is why"),
        (str(errno.ENOSPC), 1, f"some/file: No space left on device: {REMEDIES[errno.ENOSPC]}"),
        ("interrupt", 130, INTERRUPTED),
    ],
)
def test_the_rank_that_fails_says_why_and_nobody_else_says_anything(
    processes: int, fault: str, code: int, sentence: str
) -> None:
    done = job(fault, processes, processes - 1)
    assert done.stderr == f"error: {sentence}\n"
    assert done.returncode == (code if processes == 1 else 1)


def test_a_bug_in_one_rank_is_one_traceback_and_a_killed_rank_is_named() -> None:
    done = job("bug", 2, 1)
    assert done.stderr.count("Traceback") == 1
    assert done.stderr.endswith("ZeroDivisionError: a fault of the code\n")
    killed = job("kill", 2, 1)
    *others, last = killed.stderr.splitlines()
    assert last == "error: rank 1 was ended by Signal 9 (SIGKILL)"
    assert all(line.startswith("error: another rank has ended: ") for line in others)
    assert (done.returncode, killed.returncode) == (1, 1)


def test_ctrl_c_while_libraries_load_is_the_same_sentence() -> None:
    command = [*HEARS_INTERRUPTS, sys.executable, "-m", "workflow_scripts.train_stage"]
    process = subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    maps = Path(f"/proc/{process.pid}/maps")
    wait_for(lambda: "libtorch" in maps.read_text(), "torch to be loaded")
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, f"error: {INTERRUPTED}\n")


def test_a_job_in_the_background_goes_on_when_the_terminal_gets_ctrl_c() -> None:
    """Shells start it with SIGINT ignored."""
    ignoring = f"trap '' INT; exec {sys.executable} -m tests.builders.failing_job interrupt 0"
    done = subprocess.run(
        ["bash", "-c", ignoring], env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "invalid literal for int() with base 10: 'interrupt'" in done.stderr  # the next line


def test_requests_of_the_http_client_are_no_lines_of_the_log() -> None:
    """Answers of servers are asked for by the hundred thousand, through openai and httpx2."""
    code = (
        "import threading, http.server, httpx2\n"
        "from workflow_scripts import ending\n"
        "class Silent(http.server.SimpleHTTPRequestHandler):\n"
        "    def log_message(self, *_): pass\n"
        "server = http.server.HTTPServer(('127.0.0.1', 0), Silent)\n"
        "threading.Thread(target=server.serve_forever, daemon=True).start()\n"
        "url = f'http://127.0.0.1:{server.server_port}/'\n"
        "ending.run(lambda: print(httpx2.get(url, trust_env=False).status_code))\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("200\n", "")


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Volume]:
    try:
        made = Volume(tmp_path / "volume")
    except PermissionError as fault:
        pytest.skip(f"nothing can be mounted here: {fault}")
    yield made
    made.close()


def dataset(folder: Path, runs: Path) -> subprocess.CompletedProcess[str]:
    """The job that reads a source, in the real script."""
    values = {"seed": 1, "eval_fraction": 0.1, "deduplicate": False}
    settings = Settings("dataset", {"dataset": values}, {})
    source = Source(str(ROOT / "data" / "demo_chat.jsonl"), "demo_chat")
    run = save_run(runs, [settings], sources=[source], dataset={"num_samples": 100})
    return subprocess.run(
        [sys.executable, "-m", "workflow_scripts.prepare_dataset", "--run-file", str(run)],
        cwd=folder,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("leaving", [0, 500_000])
def test_a_disk_that_fills_up_is_one_sentence_and_the_job_succeeds_later(
    volume: Volume, tmp_path: Path, leaving: int
) -> None:
    (volume.place / PATHS.dataset).mkdir(parents=True)
    with volume.full(leaving):
        done = dataset(volume.place, tmp_path)
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
        assert done.stderr.startswith("error: ") and "No space left on device" in done.stderr
        assert not list((volume.place / PATHS.dataset).iterdir())
    assert dataset(volume.place, tmp_path).returncode == 0


def test_a_folder_that_cannot_be_written_is_one_sentence(volume: Volume, tmp_path: Path) -> None:
    folder = volume.place / PATHS.dataset
    folder.mkdir(parents=True)
    with volume.read_only(folder):
        done = dataset(volume.place, tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ") and "Read-only file system" in done.stderr
