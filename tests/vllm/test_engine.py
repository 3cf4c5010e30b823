"""A real vLLM engine on the CPU against plain forward passes by transformers."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from uuid import uuid4

import pytest

from eagle3.engines.separate.run import run_separately
from eagle3.errors import UserError
from tests.builders.engine import (
    Captured,
    alive,
    engine_request,
    job_documents,
    run_marked,
    wait_for_none,
)
from tests.builders.models import LAYERS
from tests.builders.waiting import wait_for

ARGUMENTS = {"kv_cache_memory_bytes": 64 << 20}
LAST = (0, 3, 5, LAYERS - 1)  # four of them, the last one too, which is kept once with `last`
CASES = {
    "llama": ("llama", 1, (1, 3, 4)),
    "llama-last": ("llama", 1, LAST),
    "qwen3-tp2": ("qwen3", 2, (1, 3, 4)),
    "qwen3_moe": ("qwen3_moe", 1, (1, 3, 4)),
}


@pytest.fixture(scope="session")
def documents(tmp_path_factory):
    return job_documents(tmp_path_factory.mktemp("tokens") / "shard.safetensors")


@pytest.mark.parametrize("name", CASES)
def test_states_are_those_of_a_plain_forward_pass(
    targets, documents, engine_python, tmp_path, cores, name
):
    kind, ranks, layers = CASES[name]
    cores(ranks)
    captured = Captured.by(
        "vllm", engine_python, targets[kind], documents, tmp_path, ARGUMENTS, ranks, layers
    )
    captured.check_batches()
    worst = captured.largest_difference()
    print(f"largest difference: {worst}")
    assert worst < 1e-4


def test_a_fault_of_the_consumer_is_one_sentence_and_ends_every_rank(
    targets, documents, engine_python, cores, monkeypatch
):
    cores(2)
    mark = uuid4().hex
    run_marked(monkeypatch, mark)
    made = engine_request(targets["llama"], "consumers:Failing", ARGUMENTS, 2, engine="vllm")
    with pytest.raises(UserError, match=r"ValueError: no room for \d+ documents$"):
        run_separately(made, documents, engine_python)
    wait_for_none(mark)


def test_a_target_that_vllm_does_not_know_is_one_sentence(
    targets, documents, engine_python, tmp_path
):
    folder = shutil.copytree(targets["llama"], tmp_path / "target")
    path = folder / "config.json"
    config = json.loads(path.read_text()) | {"architectures": ["NobodyForCausalLM"]}
    path.write_text(json.dumps(config))
    made = engine_request(folder, "consumers:Failing", ARGUMENTS, engine="vllm")
    with pytest.raises(UserError, match=r"^vLLM refuses .*NobodyForCausalLM.*not") as raised:
        run_separately(made, documents, engine_python)
    assert "\n" not in str(raised.value)


def test_an_argument_that_vllm_does_not_know_is_one_sentence(targets, documents, engine_python):
    made = engine_request(targets["llama"], "consumers:Failing", {"no_such": 1}, engine="vllm")
    with pytest.raises(UserError, match=r"^vLLM refuses .*vllm_arguments\).*no_such"):
        run_separately(made, documents, engine_python)


JOB = """
import json, sys
from eagle3.engines.separate.request import EngineRequest
from eagle3.engines.separate.run import run_separately
run_separately(EngineRequest(**json.loads(sys.argv[1])), {0: [5, 6, 7]}, sys.argv[2])
"""


@pytest.fixture
def temporary(monkeypatch):
    """A folder for temporary files with a name that is short enough for vLLM's sockets."""
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setenv("TMPDIR", folder)
        yield Path(folder)


def test_killing_our_job_leaves_no_engine(
    targets, engine_python, cores, monkeypatch, temporary, tmp_path
):
    cores(2)
    mark = uuid4().hex
    run_marked(monkeypatch, mark)
    sign = tmp_path / "sign"
    consumer = {"engine": "vllm", "sign": str(sign)}
    made = engine_request(targets["llama"], "consumers:Sleeping", ARGUMENTS, 2, **consumer)
    command = [sys.executable, "-c", JOB, json.dumps(asdict(made)), engine_python]
    with subprocess.Popen(command) as job:
        wait_for(
            sign.exists,
            "a batch to reach the consumer",
            hopeless=lambda: None if job.poll() is None else f"the job ended with {job.returncode}",
        )
        assert len(alive(mark)) > 3  # our job, the engine's process, its two workers
        job.kill()
    wait_for_none(mark)
    assert not list(temporary.glob("eagle3-*"))
