"""The device, time limit and error handling of the parts."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from eagle3.parallel.gpu_peaks import peak_tflops

Row = dict[str, Any]  # `what` was checked, `ok`, and figures
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Bench:
    """A device, the sizes to use there, and the time left."""

    device: torch.device
    tiny: bool
    budget: float  # seconds in all
    started: float = field(default_factory=time.monotonic)

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    @property
    def narrow(self) -> torch.dtype:
        """The type of training's products on the device."""
        return torch.bfloat16 if self.on_gpu else torch.float32

    @property
    def peak(self) -> float | None:
        """Dense bfloat16 FLOP/s of the card, None if it is not listed."""
        name = torch.cuda.get_device_name(self.device) if self.on_gpu else ""
        peak = peak_tflops(name)
        return None if peak is None else 1e12 * peak

    def left(self) -> float:
        """Seconds that are left."""
        return self.budget - (time.monotonic() - self.started)

    def row(self, what: str, work: Callable[[], Row], seconds: float = 5.0) -> Row:
        """The result of `work`, or its error; left out if fewer than `seconds` are left."""
        if self.left() < seconds:
            return {"what": what, "ok": None, "fault": "no time left"}
        try:
            return {"what": what, "ok": True} | work()
        except Exception as fault:
            return {"what": what, "ok": False, "fault": f"{type(fault).__name__}: {fault}"[:400]}
        finally:
            self.tidy()

    def tidy(self) -> None:
        """Free the memory of a part."""
        gc.collect()
        if self.on_gpu:
            torch.cuda.empty_cache()

    def wait(self) -> None:
        """Wait for the device."""
        if self.on_gpu:
            torch.cuda.synchronize(self.device)

    def seconds(self, work: Callable[[], Any], repeat: int = 3) -> float:
        """Seconds of the fastest call after a warm-up; of a single call if `tiny`."""
        if not self.tiny:
            work()
        best = math.inf
        for _ in range(1 if self.tiny else repeat):
            self.wait()
            started = time.perf_counter()
            work()
            self.wait()
            best = min(best, time.perf_counter() - started)
        return best


def difference(result: torch.Tensor, expected: torch.Tensor) -> float:
    """Norm of the difference over the norm of the expected tensor."""
    actual, reference = (t.detach().to(CPU, torch.float64) for t in (result, expected))
    return float((actual - reference).norm() / reference.norm().clamp_min(1e-30))


def compared(
    results: list[torch.Tensor], expected: list[torch.Tensor], bound: float
) -> dict[str, Any]:
    """The largest difference of some tensors, and whether it is within `bound`."""
    largest = max(
        difference(actual, reference) for actual, reference in zip(results, expected, strict=True)
    )
    return {"ok": largest <= bound, "difference": largest, "bound": bound}


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """Tensors of a tensor, of a tuple of them, or of the fields of an object."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from tensors_in(part)
    elif hasattr(value, "__dataclass_fields__"):
        yield from tensors_in(list(vars(value).values()))
