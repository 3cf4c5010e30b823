"""The cost of loading the target in every capture job, each of which captures one shard."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from eagle3.config.configuration import Config
from eagle3.engines.table import ENGINES

# seconds of a job before it loads: interpreter and libraries, and the device
START_CPU, START_GPU = 5.0, 15.0
READ_RATE = 1e9  # bytes a second, of weights into memory
NOTICEABLE = 300.0  # seconds of loading that are worth a warning
SHARE, AIM = 0.25, 0.1  # loading's share of the capture: worth a warning, and with the remedy


@dataclass(frozen=True)
class Loading:
    """Seconds that a job takes to load the target (None if its size is unknown), and the number of
    parallel jobs."""

    seconds: float | None
    parallel: int = 1

    @classmethod
    def of(cls, config: Config, weights: int | None) -> Loading:
        """`weights`: bytes of the target's weights."""
        capture = config.resources.capture
        parallel = max(config.hardware.devices // capture.tensor_parallel, 1)
        if weights is None:
            return cls(None, parallel)
        in_job = ENGINES[config.hidden_states.backend].in_job
        loads = 1 if in_job or not capture.self_check else 2  # the check loads a model too
        return cls(load_seconds(loads * weights, config.resources.device == "cuda"), parallel)

    def whole(self, loads: int) -> float | None:
        """Seconds of so many loads."""
        return None if self.seconds is None else self.seconds * -(-loads // self.parallel)


def load_seconds(weights: int, on_gpu: bool) -> float:
    """Seconds until a job has read so many bytes of weights."""
    return (START_GPU if on_gpu else START_CPU) + weights / READ_RATE


def loading_doubt(loading: Loading, plan: Mapping[str, Any], size: int) -> list[str]:
    """A warning if a capture of shards of `size` conversations loads for too long."""
    capture, load = plan["capture_seconds"], plan["loading_seconds"]
    if capture is None or load is None or load < NOTICEABLE or load < SHARE * (capture + load):
        return []
    shards = plan["shards"]
    # with this many shards, loading takes AIM of the capture's time
    affordable_shards = capture * AIM / (1 - AIM) / load * shards
    fewer_shards = min(max(int(affordable_shards), loading.parallel), shards)
    if fewer_shards == shards:
        return []
    return [
        f"the capture loads the target {plan['loads']} times, {load / 60:.0f} minutes beside "
        f"{capture / 60:.0f} of computing: raise dataset.shard_size from {size} to about "
        f"{-(-size * shards // fewer_shards)}"
    ]
