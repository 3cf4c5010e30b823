"""Every compiled function and flex attention, both ways, become kernels that an H100 can load."""

from __future__ import annotations

import inspect
import json
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from eagle3.kernels import fused_ops, heads
from eagle3.objective.losses import LOSSES
from tests.gpu import guard

pytestmark = pytest.mark.long
ROOT = Path(__file__).resolve().parents[2]
LOSS = [f"row_losses {kind}" for kind in LOSSES]
OWN = [f"{name} {steps}" for name in ("merged_with_own", "own_gradients") for steps in (1, 6)]
ROOMS = vars(fused_ops) | vars(heads)
FUNCTIONS = [
    *(name for name, f in ROOMS.items() if name[0] == "_" and hasattr(f, "__wrapped__")),
    "_heads alone",
    "distributions",
    *LOSS,
    *OWN,
    "prefix_gradients",
]
FLEX = ["flex torch.float32", "flex torch.bfloat16"]
SHARED = 232448  # bytes that a block may have on an H100


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    """What the lowering of each gives; in a process of its own, which loads the guard first."""
    if find_spec("triton") is None or not shutil.which("g++"):
        pytest.skip("needs Triton (make test-gpu installs it) and a C++ compiler")
    folder = tmp_path_factory.mktemp("lowered")
    built = guard.build(folder)
    command = [sys.executable, "-m", "tests.gpu.lowering", str(built), str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "kernels.json").read_text())


def of(kernels, name):
    assert "fault" not in kernels[name], kernels[name]["fault"]
    for kernel in kernels[name]["kernels"]:
        assert kernel["target"] == "sm_90a" and kernel["cubin"], kernel
        assert kernel["shared"] <= SHARED, kernel
    return kernels[name]


def test_there_is_a_case_for_every_compiled_function(kernels):
    assert set(kernels) == {*FUNCTIONS, *FLEX}
    assert inspect.unwrap(fused_ops._norm) is not fused_ops._norm


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_is_one_graph_and_a_kernel_or_a_few(kernels, name):
    result = of(kernels, name)
    assert result["graphs"] == 1
    # a second kernel: a sum over all rows, or over the heads that share a key; the gradient of a
    # norm has a sum along each row too; halves of rotated heads and values are written apart
    most = {"_norm_backward": 3, "_gain_gradient": 2, "own_gradients": 2}
    most = most | {"_heads": 4, "_heads_backward": 5}
    most = most.get(name.split()[0], 1)
    assert 1 <= len(result["kernels"]) <= most


@pytest.mark.parametrize("name", [*LOSS, *OWN])
def test_a_row_is_stored_once(kernels, name):
    """As wide as the vocabulary: the gradient alone, which the other losses form in two passes. As
    wide as a head: output or gradient of the queries, however many own keys they have."""
    stored = sum(kernel["rows_stored"] for kernel in of(kernels, name)["kernels"])
    once = name in OWN or name.split()[1] in ("soft_ce", "kl")
    assert stored == (1 if once else 2)


@pytest.mark.parametrize("name", FLEX)
def test_flex_attention_is_lowered_both_ways(kernels, name):
    result = of(kernels, name)
    assert result["graphs"] == 2  # forward and backward
    attention = [k["name"] for k in result["kernels"] if k["name"].startswith("triton_tem")]
    assert len(attention) == 2 and "backward" in attention[1]
