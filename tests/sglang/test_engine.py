"""A real SGLang engine on the CPU against plain forward passes by transformers."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from uuid import uuid4

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from eagle3.engines.sglang.engine import run_sglang
from eagle3.errors import UserError
from eagle3.tokens.needed_states import needed_states
from tests.builders.engine import (
    LAYERS,
    ON_CPU,
    alive,
    run_marked,
    sglang_request,
    wait_for_none,
)
from tests.builders.models import KINDS
from tests.builders.shards import chats, naive_states, token_shard
from tests.builders.waiting import wait_for

BUDGET = 192
BARE, LONGEST = 5, 256  # the document that nobody answers in; the context of the tiny targets


@dataclass(frozen=True)
class Captured:
    """What came out of one engine."""

    model: torch.nn.Module
    documents: dict[int, np.ndarray]
    states: dict[int, dict[str, torch.Tensor]]
    batches: list[list[int]]


@pytest.fixture(scope="session")
def documents(tmp_path_factory):
    """What a capture job sends of a token shard: documents cut after their last supervised token,
    none without one, one as long as the target's context, one token at the least."""
    bare = (np.arange(3, 12), np.zeros(9, dtype=np.uint8))
    edge = [([5, 6], [1, 1]), ([9], [1]), ([7, 8, 9, 4], [0, 1, 0, 0])]
    whole = np.ones(LONGEST, dtype=np.uint8)
    longest = (np.random.default_rng(1).integers(3, 96, LONGEST), whole)
    listed = [*chats(BARE), bare, *edge, longest, *chats(16, seed=9, longest=60)]
    shard = token_shard(tmp_path_factory.mktemp("tokens") / "shard.safetensors", listed)
    kept = needed_states(shard.loss_mask, shard.doc_offsets).kept
    starts = shard.doc_offsets.tolist()
    return {
        number: shard.input_ids[starts[number] : starts[number] + length]
        for number, length in enumerate(kept.tolist())
        if length
    }


@pytest.fixture(
    scope="module",
    params=[(kind, ranks) for kind in KINDS for ranks in (1, 2)],
    ids=lambda chosen: f"{chosen[0]}-tp{chosen[1]}",
)
def captured(request, targets, documents, engine_python, tmp_path_factory):
    """One engine for each kind of target and number of ranks."""
    kind, ranks = request.param
    folder = tmp_path_factory.mktemp("states")
    lengths = [(number, len(ids)) for number, ids in documents.items()]
    made = sglang_request(
        targets[kind], "consumers:Files", ON_CPU, ranks, BUDGET, folder=str(folder), lengths=lengths
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SGLANG_CPU_OMP_THREADS_BIND", "|".join("01"[:ranks]))  # a core for each rank
        run_sglang(made, documents, engine_python)
    lines = (folder / "batches.txt").read_text().splitlines()
    return Captured(
        AutoModelForCausalLM.from_pretrained(targets[kind], dtype=torch.float32).eval(),
        documents,
        {int(path.stem): load_file(path) for path in folder.glob("*.safetensors")},
        [[int(number) for number in line.split()] for line in lines],
    )


def test_states_are_those_of_a_plain_forward_pass(captured):
    worst = {"aux": 0.0, "last": 0.0}
    for number, ids in captured.documents.items():
        aux, last, _ = naive_states(captured.model, ids, LAYERS)
        for name, expected in (("aux", aux), ("last", last)):
            result = captured.states[number][name]
            assert result.shape == expected.shape and result.dtype == torch.float32
            worst[name] = max(worst[name], (result - expected).abs().max().item())
    print(f"largest differences: {worst}")
    assert max(worst.values()) < 1e-4


def test_every_document_came_once_and_batches_filled(captured):
    came = [number for batch in captured.batches for number in batch]
    assert sorted(came) == sorted(captured.documents) and BARE not in came
    sizes = [[len(captured.documents[number]) for number in batch] for batch in captured.batches]
    assert all(len(batch) == 1 or sum(batch) <= BUDGET for batch in sizes)
    assert [LONGEST] in sizes  # longer than the budget: alone and whole
    total = sum(map(len, captured.documents.values()))
    assert len(sizes) <= 2 + 1.5 * total / BUDGET


def test_a_fault_of_the_consumer_is_one_sentence_and_ends_every_rank(
    targets, documents, engine_python, monkeypatch
):
    mark = uuid4().hex
    run_marked(monkeypatch, mark)
    monkeypatch.setenv("SGLANG_CPU_OMP_THREADS_BIND", "0|1")
    made = sglang_request(targets["llama"], "consumers:Failing", ON_CPU, 2)
    with pytest.raises(UserError, match=r"ValueError: no room for \d+ documents$"):
        run_sglang(made, documents, engine_python)
    wait_for_none(mark)


JOB = """
import json, sys
from eagle3.engines.sglang.engine import SGLangRequest, run_sglang
run_sglang(SGLangRequest(**json.loads(sys.argv[1])), {0: [5, 6, 7]}, sys.argv[2])
"""


def test_killing_our_job_leaves_no_engine(targets, engine_python, monkeypatch, tmp_path):
    mark = uuid4().hex
    run_marked(monkeypatch, mark)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    sign = tmp_path / "sign"
    made = sglang_request(targets["llama"], "consumers:Sleeping", ON_CPU, sign=str(sign))
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
