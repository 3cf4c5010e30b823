"""Rates that the plan's times rest on: stated, measured on this processor, or of a known GPU.

torch is imported only where something is measured: the report reads a plan and measures nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from eagle3.config.resources import Hardware, Resources
from eagle3.parallel.gpu_peaks import SUSTAINED, sustained_tflops
from eagle3.parallel.gpus import gpu_memory_and_name
from eagle3.parallel.processor import processor, usable_cores

# shares of a large matrix product's rate that the jobs reach on a CPU
CAPTURE_SHARE, TRAINING_SHARE = 0.7, 0.6
SLOW = 1.5  # times as fast in float32, from which on it is said


@dataclass(frozen=True)
class Rates:
    """FLOP/s of all devices together, None if nothing is known of them; and where they are from."""

    capture: float | None
    training: float | None
    source: str
    remark: str | None = None


def rates(hardware: Hardware, resources: Resources, dtype: str, precision: str) -> Rates:
    """Rates of a target that runs in `dtype`, and of training in `precision`."""
    if hardware.tflops is not None:
        stated = hardware.tflops * 1e12 * hardware.devices
        return Rates(stated, stated, "hardware.tflops")
    if resources.device == "cpu":
        return _measured(hardware.devices, resources.train.threads, dtype, precision)
    name = hardware.gpu or gpu_memory_and_name()[1]
    sustained = sustained_tflops(name)
    if sustained is None:
        return Rates(
            None, None, f"the peak of {name or 'the GPU'} is not known; give hardware.tflops"
        )
    known = sustained * 1e12 * hardware.devices
    return Rates(known, known, f"{SUSTAINED:.0%} of the published peak of {name}")


def _measured(machines: int, train_threads: int, dtype: str, precision: str) -> Rates:
    """Of this processor, all of whose cores capture; training has threads of its own."""
    import torch

    from eagle3.kernels.processor_rate import processor_rate

    cores = usable_cores()
    of_target = processor_rate(getattr(torch, dtype), cores)
    single = processor_rate(torch.float32, cores)
    # training multiplies in float32 where the processor has no product of the narrow type
    wide = processor_rate(torch.float32, min(train_threads, cores))
    narrow = processor_rate(getattr(torch, precision), min(train_threads, cores))
    remark = None
    if single > SLOW * of_target:
        remark = (
            f"the target runs in {dtype}, {single / of_target:.1f} times slower on this processor "
            "than float32: set target.dtype to float32"
        )
    return Rates(
        CAPTURE_SHARE * of_target * machines,
        TRAINING_SHARE * max(wide, narrow) * machines,
        f"measured on {cores} cores of {processor()}: {of_target / 1e9:.0f} GFLOP/s in {dtype}",
        remark,
    )
