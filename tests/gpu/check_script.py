"""`make gpu` on the pretended GPU: its own CUDA branches, tiny, with figures that mean nothing.

python -m tests.gpu.check_script GUARD RESULT
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from tests.gpu import guard

if __name__ == "__main__":  # before torch
    guard.load(Path(sys.argv[1]))

import torch

from tests.gpu import kernels
from tests.gpu.pretended import GPU, PretendedGpu, install, moved

if __name__ == "__main__":  # before the project
    install()

from benchmarks.gpu.__main__ import main
from eagle3.objective.attention import flex as flex_attention

# `host` asks the profiler for kernels of CUDA, and `pipeline` starts other processes
PARTS = ["operations", "attention", "loss", "codecs", "steps", "published", "capture"]


def to(module: torch.nn.Module, *where: Any, **more: Any) -> torch.nn.Module:
    """`Module.to`, which would make plain tensors of the pretended ones."""
    device = more.get("device", where[0] if where else None)
    if not isinstance(device, str | torch.device) or torch.device(device).type != "cuda":
        return true_to(module, *where, **more)
    moved(module)
    if isinstance(getattr(module, "inv_freq", None), torch.Tensor):
        module.inv_freq = module.inv_freq.to(GPU)
    return module


true_to = torch.nn.Module.to

if __name__ == "__main__":
    torch.nn.Module.to = to
    torch.cuda.reset_peak_memory_stats = lambda device=None: None
    torch.cuda.max_memory_allocated = lambda device=None: PretendedGpu.current.peak
    torch.cuda.empty_cache = lambda: None
    flex_attention._kernels = lambda device: (kernels.flex, lambda seen, *_sizes, **_more: seen)
    sys.argv[1:] = ["--tiny", "--json", sys.argv[2], "--parts", *PARTS]
    with PretendedGpu():
        sys.exit(main())
