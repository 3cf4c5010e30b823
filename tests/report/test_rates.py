"""Where the plan's times come from."""

from __future__ import annotations

import pytest
import torch

from eagle3.config.resources import Hardware, Resources
from eagle3.config.train import TrainResources
from eagle3.kernels.processor_rate import processor_rate
from eagle3.parallel.processor import processor
from eagle3.report import rates as module
from eagle3.report.rates import CAPTURE_SHARE, TRAINING_SHARE, rates

CPU = Resources(device="cpu", train=TrainResources(threads=2))
CUDA = Resources(device="cuda")


@pytest.fixture
def measured(monkeypatch):
    """A processor with four cores that knows nothing of bfloat16; what was asked of it."""
    asked = []

    def rate(dtype, threads):
        asked.append((dtype, threads))
        return threads * {torch.float32: 40e9, torch.bfloat16: 5e9}[dtype]

    monkeypatch.setattr("eagle3.kernels.processor_rate.processor_rate", rate)
    monkeypatch.setattr(module, "usable_cores", lambda: 4)
    return asked


def test_a_stated_rate_is_taken_and_nothing_is_measured(measured):
    result = rates(Hardware(tflops=0.5, devices=2), CPU, "bfloat16", "float32")
    assert (result.capture, result.training, result.source) == (1e12, 1e12, "hardware.tflops")
    assert result.remark is None and measured == []


def test_a_processor_is_measured_in_the_types_that_run_on_it(measured):
    slow = rates(Hardware(), CPU, "bfloat16", "bfloat16")
    fast = rates(Hardware(), CPU, "float32", "float32")
    assert slow.capture == CAPTURE_SHARE * 4 * 5e9
    assert fast.capture == CAPTURE_SHARE * 4 * 40e9
    # training multiplies in float32 where bfloat16 is emulated, with its own threads
    assert slow.training == fast.training == TRAINING_SHARE * 2 * 40e9
    assert "8.0 times slower" in slow.remark and "target.dtype" in slow.remark
    assert fast.remark is None
    assert processor() in fast.source and "160 GFLOP/s in float32" in fast.source


@pytest.mark.parametrize(
    ("named", "here", "expected"),
    [
        ("H100", "NVIDIA L4", 396e12 * 2),
        (None, "NVIDIA L4", 48e12 * 2),
        (None, "NVIDIA Unheard", None),
        (None, None, None),
    ],
)
def test_a_gpu_is_known_by_its_name(monkeypatch, named, here, expected):
    monkeypatch.setattr(module, "gpu_memory_and_name", lambda: (None, here))
    result = rates(Hardware(gpu=named, devices=2), CUDA, "bfloat16", "bfloat16")
    assert result.capture == result.training == expected
    if expected is None:
        assert "give hardware.tflops" in result.source
    else:
        assert (named or here) in result.source


def test_the_rate_of_this_processor_is_that_of_its_products():
    """Within a wide margin: somebody else may be using it."""
    rate = processor_rate.__wrapped__(torch.float32, 1)
    assert 1e8 < rate < 1e13
    assert torch.get_num_threads() >= 1
