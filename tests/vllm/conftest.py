"""The interpreter that holds a real vLLM."""

from __future__ import annotations

import os

import pytest

from tests.builders.engine import CONSUMING
from tests.builders.models import KINDS, save_model, save_tokenizer

VARIABLE = "EAGLE3_VLLM_PYTHON"


@pytest.fixture(scope="session", autouse=True)
def engine_python():
    """Path of the interpreter; every test here is skipped without one."""
    python = os.environ.get(VARIABLE)
    if not python:
        pytest.skip(f"{VARIABLE} names no interpreter with vLLM: run `make test-vllm`")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(CONSUMING))
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("DO_NOT_TRACK", "1")
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("VLLM_LOGGING_LEVEL", "WARNING")
        yield python


@pytest.fixture
def cores(monkeypatch):
    """Gives each rank of an engine a core of its own: vLLM would give it a whole NUMA node."""
    return lambda ranks: monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "|".join("01"[:ranks]))


@pytest.fixture(scope="session")
def targets(tmp_path_factory):
    """Tiny random models by name, with heads of a size that vLLM's attention runs on a CPU."""
    root = tmp_path_factory.mktemp("targets")
    made = {kind: save_model(root / kind, kind, head_dim=32) for kind in KINDS}
    for folder in made.values():
        save_tokenizer(folder)
    return made
