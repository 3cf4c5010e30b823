"""The interpreter that holds a real SGLang, and what it needs on a machine without a GPU."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.builders.engine import CONSUMING

VARIABLE = "EAGLE3_SGLANG_PYTHON"
HERE = Path(__file__).parent


@pytest.fixture(scope="session", autouse=True)
def engine_python():
    """Path of the interpreter; every test here is skipped without one."""
    python = os.environ.get(VARIABLE)
    if not python:
        pytest.skip(f"{VARIABLE} names no interpreter with SGLang: run `make test-sglang`")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{CONSUMING}{os.pathsep}{HERE / 'shim'}")
        patch.setenv("SGLANG_USE_CPU_ENGINE", "1")
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield python
