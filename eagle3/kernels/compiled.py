"""Functions of several element-wise operations, compiled into one kernel on CUDA.

Eager, every operation there would read and write its whole tensor, so the function is compiled
(PyTorch's Inductor makes a Triton kernel of it) the first time it is called on CUDA. On a CPU it
runs as it is written: nobody needs a compiler, and the tests compare the compiled form with it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from typing import Any, ParamSpec, TypeVar

import torch

Inputs = ParamSpec("Inputs")
Output = TypeVar("Output")


def compiled_on_cuda(function: Callable[Inputs, Output]) -> Callable[Inputs, Output]:
    """`function`, compiled where its first tensor is on CUDA."""

    @cache
    def compiled() -> Callable[..., Any]:
        return torch.compile(function, dynamic=True)

    @wraps(function)
    def call(*args: Inputs.args, **kwargs: Inputs.kwargs) -> Output:
        first = next(value for value in args if isinstance(value, torch.Tensor))
        chosen: Callable[..., Any] = compiled() if first.is_cuda else function
        return chosen(*args, **kwargs)

    return call
