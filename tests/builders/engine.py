"""Requests to an engine in processes of its own, real or not, and who is left of it."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from eagle3.engines.separate.request import EngineRequest
from eagle3.engines.separate.run import run_separately
from tests.builders.models import LAYERS as NUM_LAYERS
from tests.builders.shards import chats, naive_states, token_shard
from tests.builders.waiting import wait_for

CONSUMING = Path(__file__).parent / "consuming"  # on the path of the engine's interpreter
LAYERS = (1, 3, 4)
ON_CPU = {  # arguments of a real engine on a machine without a GPU
    "device": "cpu",
    "attention_backend": "torch_native",
    "max_total_tokens": 2048,
    "mem_fraction_static": 0.3,
    "log_level": "warning",
}
BUDGET = 192  # tokens of a batch
BARE, LONGEST = 5, 256  # the document that nobody answers in; the context of the tiny targets
MARK = "EAGLE3_TEST_ENGINE"  # in the environment of every process that a test started


def engine_request(
    model,
    consumer,
    arguments,
    tensor_parallel=1,
    batch_tokens=256,
    layers=LAYERS,
    engine="sglang",
    **named,
):
    """A request in float32 with a consumer `named` arguments are for."""
    return EngineRequest(
        engine=engine,
        model=str(model),
        layers=layers,
        dtype="float32",
        trust_remote_code=False,
        tensor_parallel=tensor_parallel,
        batch_tokens=batch_tokens,
        arguments=arguments,
        consumer=consumer,
        consumer_arguments=named,
        num_layers=NUM_LAYERS,
        final_norm_key="model.norm.weight",
    )


def job_documents(path: Path) -> dict[int, np.ndarray]:
    """What a capture job sends of a token shard: documents cut after their last supervised token,
    none without one, one as long as the target's context, one token at the least, one twice."""
    bare = (np.arange(3, 12), np.zeros(9, dtype=np.uint8))
    edge = [([5, 6], [1, 1]), ([9], [1]), ([7, 8, 9, 4], [0, 1, 0, 0])]
    whole = np.ones(LONGEST, dtype=np.uint8)
    longest = (np.random.default_rng(1).integers(3, 96, LONGEST), whole)
    others = chats(16, seed=9, longest=60)
    shard = token_shard(path, [*chats(BARE), bare, *edge, longest, *others, others[0]])
    kept = shard.needed.kept
    starts = shard.doc_offsets.tolist()
    return {
        number: shard.input_ids[starts[number] : starts[number] + length]
        for number, length in enumerate(kept.tolist())
        if length
    }


@dataclass(frozen=True)
class Captured:
    """What came out of one engine, in files of `consumers:Files`."""

    model: torch.nn.Module
    layers: tuple[int, ...]
    documents: dict[int, np.ndarray]
    states: dict[int, dict[str, torch.Tensor]]
    batches: list[list[int]]

    @classmethod
    def by(
        cls,
        engine: str,
        python: str,
        target: Path,
        documents: dict[int, np.ndarray],
        folder: Path,
        arguments: dict[str, Any],
        ranks: int = 1,
        layers: tuple[int, ...] = LAYERS,
    ) -> Captured:
        """Send `documents` through a real engine."""
        lengths = [(number, len(ids)) for number, ids in documents.items()]
        consumer = {"folder": str(folder), "lengths": lengths}
        request = engine_request(
            target, "consumers:Files", arguments, ranks, BUDGET, layers, engine, **consumer
        )
        run_separately(request, documents, python)
        lines = (folder / "batches.txt").read_text().splitlines()
        return cls(
            AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32).eval(),
            layers,
            documents,
            {int(path.stem): load_file(path) for path in folder.glob("*.safetensors")},
            [[int(number) for number in line.split()] for line in lines],
        )

    def largest_difference(self) -> float:
        """From a plain forward pass by transformers, over all documents and states."""
        worst, kept = 0.0, {}
        self.model.model.layers[-1].register_forward_hook(
            lambda _module, _inputs, output: kept.update(state=output)
        )
        for number, ids in self.documents.items():
            aux, last, _ = naive_states(self.model, ids, self.layers)
            if self.layers[-1] == NUM_LAYERS - 1:  # transformers returns it behind the norm
                own = kept["state"][0] if isinstance(kept["state"], tuple) else kept["state"]
                aux = torch.cat((aux[:, : -last.shape[-1]], own[0]), dim=-1)
            for name, expected in (("aux", aux), ("last", last)):
                result = self.states[number][name]
                assert result.shape == expected.shape and result.dtype == torch.float32
                worst = max(worst, (result - expected).abs().max().item())
        return worst

    def check_batches(self) -> None:
        """Every document came once, and batches were filled."""
        came = [number for batch in self.batches for number in batch]
        assert sorted(came) == sorted(self.documents) and BARE not in came
        sizes = [[len(self.documents[number]) for number in batch] for batch in self.batches]
        assert all(len(batch) == 1 or sum(batch) <= max(BUDGET, LONGEST + 8) for batch in sizes)
        total = sum(map(len, self.documents.values()))
        assert len(sizes) <= 2 + 1.5 * total / BUDGET


def alive(mark: str) -> list[int]:
    """Processes that were started with this mark (one that has ended shows no environment)."""
    result = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if f"{MARK}={mark}".encode() in path.read_bytes().split(b"\0"):
                result.append(int(path.parent.name))
    return result


def wait_for_none(mark: str) -> None:
    """Until every process that was started with this mark has ended."""
    wait_for(
        lambda: not alive(mark), "every process of the engine to end", state=lambda: alive(mark)
    )


def run_marked(monkeypatch, mark: str) -> None:
    """Mark the processes that this test starts from here on."""
    monkeypatch.setenv(MARK, mark)
    assert os.environ[MARK] == mark and not alive(mark)
