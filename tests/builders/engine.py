"""Requests to an SGLang engine, real or not, and who is left of it."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from eagle3.engines.sglang.engine import SGLangRequest
from tests.builders.waiting import wait_for

LAYERS = (1, 3, 4)
ON_CPU = {  # arguments of a real engine on a machine without a GPU
    "device": "cpu",
    "attention_backend": "torch_native",
    "max_total_tokens": 2048,
    "mem_fraction_static": 0.3,
    "log_level": "warning",
}
MARK = "EAGLE3_TEST_ENGINE"  # in the environment of every process that a test started


def sglang_request(
    model, consumer, arguments, tensor_parallel=1, batch_tokens=256, layers=LAYERS, **named
):
    """A request in float32 with a consumer `named` arguments are for."""
    return SGLangRequest(
        model=str(model),
        layers=layers,
        dtype="float32",
        trust_remote_code=False,
        tensor_parallel=tensor_parallel,
        batch_tokens=batch_tokens,
        arguments=arguments,
        consumer=consumer,
        consumer_arguments=named,
    )


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
