"""Element-wise chains as one kernel each where that pays.

On CUDA every operation of a chain would read and write its whole tensor, so the chain is compiled
(PyTorch's Inductor makes a Triton kernel of it) the first time it is called there. On a CPU it runs
as it is written: nobody needs a compiler, and that is the twin the compiled form is tested against.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from typing import Any, ParamSpec, TypeVar

import torch

Inputs = ParamSpec("Inputs")
Output = TypeVar("Output")


def fused(function: Callable[Inputs, Output]) -> Callable[Inputs, Output]:
    """`function`, compiled where its first tensor is on CUDA."""

    @cache
    def compiled() -> Callable[..., Any]:
        return torch.compile(function, dynamic=True)

    @wraps(function)
    def call(*args: Inputs.args, **kwargs: Inputs.kwargs) -> Output:
        first = next(each for each in args if isinstance(each, torch.Tensor))
        chosen: Callable[..., Any] = compiled() if first.is_cuda else function
        return chosen(*args, **kwargs)

    return call
