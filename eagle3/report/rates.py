"""Rates behind the plan's times: stated, measured on this processor, or published for a GPU.

torch is imported only for a measurement: the report reads a plan and measures nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from eagle3.config.resources import Hardware, Resources
from eagle3.parallel.gpu_peaks import SUSTAINED, sustained_tflops
from eagle3.parallel.gpus import gpu_memory_and_name
from eagle3.parallel.processor import processor, usable_cores

# shares of a large matrix product's rate that the jobs reach on a CPU
CAPTURE_SHARE, TRAINING_SHARE = 0.7, 0.6
SLOW = 1.5  # a target this many times slower than in float32 is worth a remark


@dataclass(frozen=True)
class Rates:
    """FLOP/s of all devices together, None if unknown, and the source of the figures."""

    capture: float | None
    training: float | None
    source: str
    remark: str | None = None


def rates(hardware: Hardware, resources: Resources, dtype: str, precision: str) -> Rates:
    """Rates of a target that runs in `dtype`, and of training in `precision`."""
    if hardware.tflops is not None:
        total = hardware.tflops * 1e12 * hardware.devices
        return Rates(total, total, "hardware.tflops")
    if resources.device == "cpu":
        return _measured(hardware.devices, resources.train.threads, dtype, precision)
    name = hardware.gpu or gpu_memory_and_name()[1]
    sustained = sustained_tflops(name)
    if sustained is None:
        return Rates(
            None, None, f"the peak of {name or 'the GPU'} is not known; give hardware.tflops"
        )
    total = sustained * 1e12 * hardware.devices
    return Rates(total, total, f"{SUSTAINED:.0%} of the published peak of {name}")


def _measured(machines: int, train_threads: int, dtype: str, precision: str) -> Rates:
    """Rates of this processor: captures use all cores, training uses `train_threads`."""
    import torch

    from eagle3.kernels.processor_rate import processor_rate

    cores = usable_cores()
    target_rate = processor_rate(getattr(torch, dtype), cores)
    single_rate = processor_rate(torch.float32, cores)
    # training multiplies in float32 where the processor has no product of the narrow type
    training_float32 = processor_rate(torch.float32, min(train_threads, cores))
    training_rate = processor_rate(getattr(torch, precision), min(train_threads, cores))
    remark = None
    if single_rate > SLOW * target_rate:
        remark = (
            f"the target runs in {dtype}, {single_rate / target_rate:.1f} times slower on this "
            "processor than float32: set target.dtype to float32"
        )
    return Rates(
        CAPTURE_SHARE * target_rate * machines,
        TRAINING_SHARE * max(training_float32, training_rate) * machines,
        f"measured on {cores} cores of {processor()}: {target_rate / 1e9:.0f} GFLOP/s in {dtype}",
        remark,
    )
