"""A real SGLang engine on the CPU against plain forward passes by transformers."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from uuid import uuid4

import pytest

from eagle3.engines.separate.run import run_separately
from eagle3.errors import UserError
from tests.builders.engine import (
    LONGEST,
    ON_CPU,
    Captured,
    alive,
    engine_request,
    job_documents,
    run_marked,
    wait_for_none,
)
from tests.builders.models import KINDS
from tests.builders.waiting import wait_for


@pytest.fixture(scope="session")
def documents(tmp_path_factory):
    return job_documents(tmp_path_factory.mktemp("tokens") / "shard.safetensors")


@pytest.fixture(
    scope="module",
    params=[(kind, ranks) for kind in KINDS for ranks in (1, 2)],
    ids=lambda chosen: f"{chosen[0]}-tp{chosen[1]}",
)
def captured(request, targets, documents, engine_python, tmp_path_factory):
    """One engine for each kind of target and number of ranks."""
    kind, ranks = request.param
    folder = tmp_path_factory.mktemp("states")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SGLANG_CPU_OMP_THREADS_BIND", "|".join("01"[:ranks]))  # a core for each rank
        return Captured.by("sglang", engine_python, targets[kind], documents, folder, ON_CPU, ranks)


def test_states_are_those_of_a_plain_forward_pass(captured):
    worst = captured.largest_difference()
    print(f"largest difference: {worst}")
    assert worst < 1e-4


def test_every_document_came_once_and_batches_filled(captured):
    captured.check_batches()
    sizes = [[len(captured.documents[number]) for number in batch] for batch in captured.batches]
    assert [LONGEST] in sizes  # longer than the budget: alone and whole


def test_a_fault_of_the_consumer_is_one_sentence_and_ends_every_rank(
    targets, documents, engine_python, monkeypatch
):
    mark = uuid4().hex
    run_marked(monkeypatch, mark)
    monkeypatch.setenv("SGLANG_CPU_OMP_THREADS_BIND", "0|1")
    made = engine_request(targets["llama"], "consumers:Failing", ON_CPU, 2)
    with pytest.raises(UserError, match=r"ValueError: no room for \d+ documents$"):
        run_separately(made, documents, engine_python)
    wait_for_none(mark)


JOB = """
import json, sys
from eagle3.engines.separate.request import EngineRequest
from eagle3.engines.separate.run import run_separately
run_separately(EngineRequest(**json.loads(sys.argv[1])), {0: [5, 6, 7]}, sys.argv[2])
"""


def test_killing_our_job_leaves_no_engine(targets, engine_python, monkeypatch, tmp_path):
    mark = uuid4().hex
    run_marked(monkeypatch, mark)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    sign = tmp_path / "sign"
    made = engine_request(targets["llama"], "consumers:Sleeping", ON_CPU, sign=str(sign))
    command = [sys.executable, "-c", JOB, json.dumps(asdict(made)), engine_python]
    with subprocess.Popen(command) as job:
        wait_for(
            sign.exists,
            "a batch to reach the consumer",
            hopeless=lambda: None if job.poll() is None else f"the job ended with {job.returncode}",
        )
        assert len(alive(mark)) > 2  # our job, the engine's process, its scheduler
        job.kill()
    wait_for_none(mark)
    assert not list((tmp_path / "temporary").glob("eagle3-*"))
