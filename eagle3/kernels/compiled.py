"""Functions of several element-wise operations, compiled into one kernel on CUDA.

Eager, every operation there would read and write its whole tensor, so the function is compiled
(PyTorch's Inductor makes a Triton kernel of it) the first time it is called on CUDA. On a CPU it
runs as it is written: nobody needs a compiler, and the tests compare the compiled form with it. So
it does where nothing can be compiled, with one warning: Triton builds a small library with the
machine's C compiler and Python's headers first.
"""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Callable
from functools import cache, wraps
from typing import Any, ParamSpec, TypeVar

import torch

Inputs = ParamSpec("Inputs")
Output = TypeVar("Output")

log = logging.getLogger(__name__)
VARIANTS = 32  # of one function: types, ranks and kinds of loss in one process


def compiled_on_cuda(function: Callable[Inputs, Output]) -> Callable[Inputs, Output]:
    """`function`, compiled where its first tensor is on CUDA. It takes part in no autograd graph:
    it is called in forward and backward passes that are written out."""

    @cache
    def compiled() -> Callable[..., Any]:
        compile_with: Callable[..., Any] = torch.compile  # typed without `recompile_limit`
        return compile_with(function, dynamic=True, recompile_limit=VARIANTS)

    @wraps(function)
    def call(*args: Inputs.args, **kwargs: Inputs.kwargs) -> Output:
        first = next(value for value in args if isinstance(value, torch.Tensor))
        if not (first.is_cuda and compiles_for_cuda()):
            return function(*args, **kwargs)
        # whether a tensor takes a gradient would be a variant of its own
        plain = (_detached(value) for value in args)
        found: Output = compiled()(*plain, **kwargs)
        return found

    return call


def _detached(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_detached(each) for each in value]
    return value.detach() if isinstance(value, torch.Tensor) else value


@cache
def compiles_for_cuda() -> bool:
    """Whether a trivial function can be compiled for this machine's GPU and run there. Tried once,
    in a second or a few; if not, a warning says why and what is lost."""
    try:
        increment = torch.compile(_increment, dynamic=True)
        increment(torch.ones(2, device="cuda"))
    except (RuntimeError, OSError, ImportError, subprocess.SubprocessError) as fault:
        lines = str(fault).strip().splitlines()
        log.warning(
            "nothing can be compiled for the GPU here (%s): training runs operation by operation, "
            "which is slower; Triton needs a C compiler and Python's headers (docs/performance.md)",
            lines[0] if lines else type(fault).__name__,
        )
        return False
    log.info("operations are compiled for the GPU in the first step, which takes longer for it")
    return True


def _increment(x: torch.Tensor) -> torch.Tensor:
    return x + 1
