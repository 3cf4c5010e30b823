"""A trace of some steps by torch.profiler, for ui.perfetto.dev or chrome://tracing."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from eagle3.errors import UserError

log = logging.getLogger(__name__)


@contextmanager
def tracing(
    after: int, steps: int, file: Path, device: torch.device
) -> Iterator[Callable[[], None] | None]:
    """A function to call at the end of each step; None if no step is traced.

    `steps` steps after the first `after` ones go to `file` (.json.gz), which is written when they
    are done. The step before them is the profiler's warm-up. Raises UserError if the file cannot be
    written.
    """
    if steps == 0:
        yield None
        return
    from torch.profiler import ProfilerActivity, profile, schedule

    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)

    def write(profiler: profile) -> None:
        temporary = file.with_name(f".{os.getpid()}.{file.name}")  # its ending decides the format
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            profiler.export_chrome_trace(str(temporary))
            temporary.replace(file)
        except OSError as fault:
            with suppress(OSError):
                temporary.unlink()
            raise UserError(f"{file}: cannot be written: {fault.strerror}") from None
        log.info("a trace of %d steps is in %s; open it in https://ui.perfetto.dev", steps, file)

    plan = schedule(wait=after - 1, warmup=1, active=steps, repeat=1)
    with profile(activities=activities, schedule=plan, on_trace_ready=write) as profiler:
        yield profiler.step
