"""Every compiled function lowered for an H100 and compiled by Triton, on a machine without a GPU.

    python -m tests.gpu.lowering GUARD FOLDER

Inductor asks the device what it can do, and is told the figures of an H100; Triton compiles for a
named target by itself (ptxas comes with it). Tensors are fake, so nothing runs. What is written to
FOLDER/kernels.json, for each function: its graphs, and of each kernel the shared memory it takes.
"""

from __future__ import annotations

import copy
import inspect
import json
import re
import sys
import traceback
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.gpu import guard

if __name__ == "__main__":  # before torch
    guard.load(Path(sys.argv[1]))

import torch
import torch._inductor.config as settings
import triton
from torch._dynamo import device_interface
from torch._inductor import compile_fx, graph
from torch._inductor.codecache import PyCodeCache
from torch._inductor.fx_passes import joint_graph, post_grad
from torch._inductor.runtime import triton_helpers
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.nn.attention.flex_attention import AuxRequest, create_block_mask, flex_attention
from triton.backends.compiler import GPUTarget

from eagle3.kernels import fused_ops, heads
from eagle3.objective import losses, teacher
from eagle3.objective.attention import own_keys
from eagle3.objective.losses import LOSSES
from eagle3.objective.teacher import TeacherProbs

BF16, FP32, I64 = torch.bfloat16, torch.float32, torch.int64
DEPTHS = (1, 6)  # own keys of a query
H100 = SimpleNamespace(
    name="NVIDIA H100 80GB HBM3",
    major=9,
    minor=0,
    multi_processor_count=132,
    total_memory=85 * 10**9,
    regs_per_multiprocessor=65536,
    max_threads_per_multi_processor=2048,
    max_threads_per_block=1024,
    warp_size=32,
    shared_memory_per_block=49152,
    shared_memory_per_block_optin=232448,
    shared_memory_per_multiprocessor=233472,
    L2_cache_size=50 * 2**20,
    gcnArchName="",
    clock_rate=1980000,
    memory_clock_rate=2619000,
    memory_bus_width=5120,
    is_integrated=0,
)


class Driver:
    """What Triton asks of the driver."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cuda", 0)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, _device: Any = None) -> int:
        return 0

    def get_device_interface(self) -> Any:
        return torch.cuda

    def is_active(self) -> bool:
        return True


def answer_with(owner: Any, **answers: Any) -> None:
    """Functions of `owner` that give these values."""
    for name, value in answers.items():
        setattr(owner, name, lambda *_args, value=value, **_more: value)


def pretend() -> None:
    """An H100, as far as compiling asks."""
    triton.runtime.driver.set_active(Driver())
    torch.version.cuda = "13.0"
    answer_with(
        torch.cuda,
        **{"is_available": True, "device_count": 1, "current_device": 0, "_lazy_init": None},
        **{"get_device_properties": H100, "get_device_capability": (9, 0), "synchronize": None},
        **{"get_device_name": H100.name, "is_initialized": True, "is_bf16_supported": True},
        **{"get_arch_list": ["sm_90"], "set_rng_state": None},
        **{"get_rng_state": torch.empty(16, dtype=torch.uint8)},
        **{"_exchange_device": 0, "_maybe_exchange_device": 0},
    )
    answer_with(
        torch._C,
        **{"_cuda_getDevice": 0, "_cuda_getCurrentRawStream": 0, "_cuda_setDevice": None},
        **{"_cuda_exchangeDevice": 0, "_cuda_maybeExchangeDevice": 0, "_cuda_getDeviceCount": 1},
        _cuda_getCurrentStream=(0, 0, 1),
    )
    answer_with(torch.cuda.graphs, _cuda_isCurrentStreamCapturing=False)
    interface = device_interface.get_interface_for_device("cuda")
    answers = {
        **{"is_available": True, "current_device": 0, "device_count": 1, "synchronize": None},
        **{"get_device_properties": H100, "get_compute_capability": 90, "exchange_device": 0},
        **{"is_bf16_supported": True, "is_triton_capable": True, "maybe_exchange_device": 0},
        **{"raise_if_triton_unavailable": None},
    }
    for name, value in answers.items():
        for owner in (interface, interface.Worker):
            setattr(owner, name, staticmethod(lambda *_args, value=value, **_more: value))
    torch.utils._triton.has_triton = lambda: True
    triton_helpers.set_driver_to_gpu = lambda: None
    settings.use_static_triton_launcher = False
    settings.compile_threads = 1
    settings.force_disable_caches = True
    # passes that try patterns out on real tensors of the device
    settings.pattern_matcher = settings.joint_graph_constant_folding = False
    joint_graph.lazy_init = post_grad.lazy_init = lambda *_args, **_more: None


class SourceTakenError(Exception):
    """Lowering has gone as far as it can without a device."""


class Lowering:
    """A back end of torch.compile: takes the source that Inductor makes of a graph, and computes by
    the graph itself, on fake tensors, so that a backward pass is reached too."""

    def __init__(self) -> None:
        self.sources: list[str] = []
        lowering = self

        def take(self: Any) -> None:
            code, _ = self.codegen()
            lowering.sources.append(code.value)
            raise SourceTakenError

        graph.GraphLowering.compile_to_module = take

    def __call__(self, module: Any, inputs: Any) -> Any:
        return compile_fx.compile_fx(module, inputs, inner_compile=self._inner)

    def _inner(self, module: Any, inputs: Any, **options: Any) -> Any:
        count, original = len(self.sources), copy.deepcopy(module)
        try:
            compile_fx.compile_fx_inner(module, inputs, **options)
        except Exception:  # Inductor wraps what is raised inside
            if len(self.sources) == count:
                raise

        def call(arguments: list[Any]) -> Any:
            return original(*arguments)

        call._boxed_call = True
        return call

    def kernels(self, function: Any, *args: Any, backward: bool = False) -> dict[str, Any]:
        """Graphs of a function, and the shared memory of each of its kernels."""
        self.sources.clear()
        torch.compiler.reset()
        compiled = torch.compile(function, dynamic=True, fullgraph=True, backend=self)
        with torch.set_grad_enabled(backward):
            out = compiled(*args)
            if backward:
                sum(part.float().sum() for part in out).backward()
        result = [each for source in self.sources for each in compiled_kernels(source)]
        return {"graphs": len(self.sources), "kernels": result}


def compiled_kernels(source: str) -> list[dict[str, Any]]:
    """Each Triton kernel of a wrapper's source, compiled as Inductor's workers do."""
    result = []
    for name, text in re.findall(
        r"async_compile\.triton\('([^']+)', '''(.*?)''', device_str", source, re.DOTALL
    ):
        kernel = getattr(PyCodeCache.load(text), name)
        kernel.precompile(warm_cache_only=True)
        made = kernel.compile_results[0].kernel
        target = re.findall(r"\.target (\S+)", made.asm["ptx"])[0]
        shared = max(each.kernel.metadata.shared for each in kernel.compile_results)
        rows = len(re.findall(r"^ {8}tl\.store", text, re.MULTILINE))  # stored inside a loop
        result.append(
            {
                **{"name": name, "target": target, "cubin": "cubin" in made.asm},
                **{"shared": shared, "rows_stored": rows},
            }
        )
    return result


def empty(*size: int, dtype: torch.dtype = FP32) -> torch.Tensor:
    return torch.empty(*size, dtype=dtype, device="cuda")


def compiled_functions() -> dict[str, Any]:
    """By name."""
    rooms = vars(fused_ops) | vars(heads) | vars(own_keys) | vars(losses) | vars(teacher)
    return {name: f for name, f in rooms.items() if hasattr(f, "__wrapped__")}


def cases() -> dict[str, tuple[Any, ...]]:
    """Every function that is compiled on CUDA, at the shape of an 8B target's draft."""
    n, r, h, i, d, vocab = 5184, 1024, 4096, 14336, 128, 32000
    x, dy, wide = empty(n, h, dtype=BF16), empty(n, h, dtype=BF16), empty(n, i, dtype=BF16)
    scale, heads_of = empty(n, 1), empty(n, 48 * d, dtype=BF16)
    angle, at = empty(8192, 1, d // 2), empty(n, dtype=I64)
    looked_up = angle, angle.clone(), at.clone()
    result = {
        "_norm": (x, empty(h), 1e-5),
        "_norm_backward": (dy, x, empty(h), scale),
        "_gain_gradient": (dy, x, scale),
        "_gated": (wide, wide.clone()),
        "_gated_backward": (wide, wide.clone(), wide.clone()),
        "_heads": (heads_of, empty(r, 48 * d), at, *looked_up, 40, BF16),
        "_heads alone": (empty(n, 16 * d), None, None, *looked_up, 8, BF16),
        "_heads_backward": (
            [empty(n, heads, d, dtype=BF16) for heads in (32, 8, 8)],
            *looked_up,
            40,
            BF16,
        ),
        "distributions": (empty(r, vocab), empty(r)),
    }
    for kind in LOSSES:
        probs = TeacherProbs(empty(r, vocab), empty(r), empty(r), empty(r, vocab))
        logits = empty(n, vocab, dtype=BF16)
        result[f"row_losses {kind}"] = (kind, logits, probs, empty(n, dtype=I64), empty(n))
    q, lse = empty(n, 32, d, dtype=BF16), empty(n, 32)
    for steps in DEPTHS:
        own = [empty(n + 64 * j, 8, d, dtype=BF16) for j in range(2 * steps)]
        terms = own[:steps], own[steps:], [empty(n, dtype=I64) for _ in range(steps)]
        result[f"merged_with_own {steps}"] = (q, q.clone(), lse, *terms)
        result[f"own_gradients {steps}"] = (q, q.clone(), q.clone(), lse, q.clone(), *terms)
    result["prefix_gradients"] = (q, q.clone(), lse, q.clone(), lse.clone())
    return result


def attention(dtype: torch.dtype) -> tuple[Any, ...]:
    """Flex attention of a step as it is compiled, its mask built inside."""
    rows, total = 3000, 8000
    sizes = ((32, rows), (8, total), (8, total))
    tensors = [empty(1, heads, count, 128, dtype=dtype).requires_grad_() for heads, count in sizes]

    def attend(q: Any, k: Any, v: Any, at: Any, starts: Any) -> Any:
        def seen(_b: Any, _h: Any, query: Any, key: Any) -> Any:
            return (key <= at[query]) & (key >= starts[query])

        mask = create_block_mask(seen, None, None, q.shape[2], k.shape[2], device="cuda")
        aux = AuxRequest(lse=True)
        out, more = flex_attention(q, k, v, block_mask=mask, enable_gqa=True, return_aux=aux)
        return out, more.lse

    return attend, *tensors, empty(rows, dtype=I64), empty(rows, dtype=I64)


def main() -> None:
    pretend()
    lowering, result = Lowering(), {}
    work: dict[str, Any] = {}
    with FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True):
        for name, args in cases().items():
            function = compiled_functions()[name.split()[0]]
            work[name] = partial(lowering.kernels, inspect.unwrap(function), *args)
        for dtype in (FP32, BF16):
            work[f"flex {dtype}"] = partial(lowering.kernels, *attention(dtype), backward=True)
        for name in sys.argv[3:] or work:
            try:
                result[name] = work[name]()
            except Exception:  # the test of this function shows it, the others go on
                result[name] = {"fault": traceback.format_exc()}
    (Path(sys.argv[2]) / "kernels.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main()
