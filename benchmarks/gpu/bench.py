"""Where the parts run, how long they may take, and what becomes of one that fails."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from eagle3.parallel.gpu_peaks import peak_tflops

Row = dict[str, Any]  # `what` was looked at, `ok` or not, and figures
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Bench:
    """A device, the sizes to use there, and the time left."""

    device: torch.device
    tiny: bool
    budget: float  # seconds in all
    begun: float = field(default_factory=time.monotonic)

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    @property
    def narrow(self) -> torch.dtype:
        """What training computes in there."""
        return torch.bfloat16 if self.on_gpu else torch.float32

    @property
    def peak(self) -> float | None:
        """Dense bfloat16 FLOP/s of the card, None if it is not listed."""
        name = torch.cuda.get_device_name(self.device) if self.on_gpu else ""
        peak = peak_tflops(name)
        return None if peak is None else 1e12 * peak

    def left(self) -> float:
        """Seconds that are left."""
        return self.budget - (time.monotonic() - self.begun)

    def row(self, what: str, work: Callable[[], Row], seconds: float = 5.0) -> Row:
        """What `work` finds, or why it failed; left out if fewer than `seconds` are left."""
        if self.left() < seconds:
            return {"what": what, "ok": None, "fault": "no time left"}
        try:
            return {"what": what, "ok": True} | work()
        except Exception as fault:
            return {"what": what, "ok": False, "fault": f"{type(fault).__name__}: {fault}"[:400]}
        finally:
            self.tidy()

    def tidy(self) -> None:
        """Give back what a part held."""
        gc.collect()
        if self.on_gpu:
            torch.cuda.empty_cache()

    def wait(self) -> None:
        """Until the device has done what it was told."""
        if self.on_gpu:
            torch.cuda.synchronize(self.device)

    def seconds(self, work: Callable[[], Any], repeat: int = 3) -> float:
        """The shortest of some calls, after one that warms up; tiny, of one call."""
        if not self.tiny:
            work()
        best = math.inf
        for _ in range(1 if self.tiny else repeat):
            self.wait()
            begun = time.perf_counter()
            work()
            self.wait()
            best = min(best, time.perf_counter() - begun)
        return best


def difference(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Norm of the difference over the norm of what is wanted."""
    one, other = (t.detach().to(CPU, torch.float64) for t in (found, wanted))
    return float((one - other).norm() / other.norm().clamp_min(1e-30))


def compared(found: list[torch.Tensor], wanted: list[torch.Tensor], bound: float) -> dict[str, Any]:
    """The largest difference of some tensors, and whether it is within `bound`."""
    worst = max(difference(one, other) for one, other in zip(found, wanted, strict=True))
    return {"ok": worst <= bound, "difference": worst, "bound": bound}


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """Tensors of a tensor, of a tuple of them, or of the fields of an object."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from tensors_in(part)
    elif hasattr(value, "__dataclass_fields__"):
        yield from tensors_in(list(vars(value).values()))
