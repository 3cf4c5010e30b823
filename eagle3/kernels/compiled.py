"""Functions of several element-wise operations, compiled into one kernel on CUDA.

Eager, every operation would read and write its whole tensor, so the function is compiled to a
Triton kernel (by PyTorch's Inductor) when it is first called on CUDA. On a CPU it runs uncompiled:
no compiler is needed, and tests compare the compiled form with it. It also runs uncompiled, with a
warning, where nothing can be compiled: Triton first builds a small library with the machine's C
compiler and Python's headers.
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
    """`function`, compiled if its first tensor is on CUDA. It is not part of an autograd graph: it
    is called in explicit forward and backward passes."""

    @cache
    def compiled() -> Callable[..., Any]:
        compile_with: Callable[..., Any] = torch.compile  # typed without `recompile_limit`
        return compile_with(function, dynamic=True, recompile_limit=VARIANTS)

    @wraps(function)
    def call(*args: Inputs.args, **kwargs: Inputs.kwargs) -> Output:
        first = next(value for value in args if isinstance(value, torch.Tensor))
        if not (first.is_cuda and compiles_for_cuda()):
            return function(*args, **kwargs)
        # else `requires_grad` would add compiled variants
        detached = (_detached(value) for value in args)
        output: Output = compiled()(*detached, **kwargs)
        return output

    return call


def _detached(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_detached(item) for item in value]
    return value.detach() if isinstance(value, torch.Tensor) else value


@cache
def compiles_for_cuda() -> bool:
    """Whether a trivial function can be compiled for this machine's GPU and run there. Tried once,
    which takes a few seconds; a warning gives the reason and the consequence of a failure."""
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
