"""A pretended GPU: tensors that say they lie on cuda:0 and hold ordinary numbers of the CPU.

The project's CUDA branches run on it with a CPU build of PyTorch. Every operator is carried out on
what the tensors hold, and on the way the mode

* refuses operands of two devices, and what CUDA's kernels refuse (`kernels`);
* counts where the host would wait for the device, by the line of the project that asks for it;
* counts kernels, a compiled function as one, and the peak of bytes that are alive.

With a `Ledger` the tensors of floating-point numbers hold none: a pass of a large draft costs no
more than its bookkeeping, and the ledger hears of every kernel (`roofline`).

`install` comes before anything of the project is imported, and `guard.load` before torch.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections import Counter
from dataclasses import is_dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from tests.gpu.kernels import EMULATED, SCRATCH

ROOT = Path(__file__).resolve().parents[2]
GPU, CPU, META = torch.device("cuda", 0), torch.device("cpu"), torch.device("meta")
VIEWS = {
    *("view", "_unsafe_view", "expand", "transpose", "t", "permute", "slice", "select", "detach"),
    *("unsqueeze", "squeeze", "as_strided", "alias", "split", "split_with_sizes", "unbind"),
    *("unfold", "_reshape_alias", "lift_fresh", "chunk", "diagonal", "view_as"),
}
NO_KERNEL = VIEWS | {
    *("empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "resize_", "set_"),
    *("_local_scalar_dense", "_has_same_storage_numel"),
}
WAITS = {
    *("_local_scalar_dense", "nonzero", "unique_consecutive", "_unique2", "unique_dim"),
    *("masked_select", "bincount", "equal"),
}
INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_"}


LOOKUPS = {"index", "index_select", "gather", "embedding"}


class Ledger(Protocol):
    """Hears of kernels, with the tensors that they read and write."""

    def kernel(self, func: Any, read: list[torch.Tensor], written: list[torch.Tensor]) -> None: ...

    def compiled(
        self,
        function: Any,
        read: list[torch.Tensor],
        looked_up: list[torch.Tensor],
        written: list[torch.Tensor],
    ) -> None:
        """One kernel of several operations; `looked_up`: rows that it takes from tables."""


class OnGpu(torch.Tensor):
    """A tensor of the pretended GPU."""

    raw: torch.Tensor

    @staticmethod
    def __new__(cls, raw: torch.Tensor) -> OnGpu:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            raw.size(),
            strides=raw.stride(),
            storage_offset=raw.storage_offset(),
            dtype=raw.dtype,
            device=GPU,
        )
        made.raw = raw
        return made

    def tolist(self) -> Any:
        PretendedGpu.current.waited("tolist")
        return _on_host(self.raw).tolist()

    def new_tensor(self, data: Any, dtype: Any = None, **more: Any) -> torch.Tensor:
        return torch.tensor(data, dtype=dtype or self.dtype, device=more.get("device") or GPU)

    def __repr__(self, *_args: Any, **_more: Any) -> str:
        return f"OnGpu({tuple(self.shape)}, {self.dtype})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return PretendedGpu.current.carry_out(func, args, kwargs or {})


class PretendedGpu(TorchDispatchMode):
    """While it is entered, there is a GPU."""

    current: PretendedGpu

    def __init__(self, ledger: Ledger | None = None) -> None:
        super().__init__()
        self.ledger = ledger
        self.tables: dict[int, list[torch.Tensor]] = {}  # that a compiled function looks rows up in
        self.alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.bytes = 0
        self.compiled = 0  # depth of compiled functions
        self.reset()

    def reset(self) -> None:
        """Count from here on."""
        self.waits: Counter[str] = Counter()
        self.operators: set[str] = set()
        self.kernels = 0
        self._sweep()
        self.peak = self.bytes

    def __enter__(self) -> PretendedGpu:
        PretendedGpu.current = self
        return super().__enter__()

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.carry_out(func, args, kwargs or {})

    def waited(self, why: str) -> None:
        frame = sys._getframe(1)
        while frame:
            file = frame.f_code.co_filename
            if file.startswith(str(ROOT / "eagle3")):
                self.waits[f"{file[len(str(ROOT)) + 1 :]}:{frame.f_lineno} {why}"] += 1
                return
            frame = frame.f_back
        self.waits[f"elsewhere {why}"] += 1

    def carry_out(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        name = func._schema.name.split("::")[1]
        kwargs = {k: v for k, v in kwargs.items() if k != "pin_memory"}
        flat, spec = tree_flatten((args, kwargs))
        there = [x for x in flat if isinstance(x, OnGpu)]
        device = kwargs.get("device")
        to_gpu = device is not None and torch.device(device).type == "cuda"
        if name == "_to_copy":
            return self._moved(func, args[0], kwargs)
        if not there and not to_gpu:
            return func(*args, **kwargs)
        if name == "copy_" and isinstance(args[0], OnGpu) != isinstance(args[1], OnGpu):
            if args[1].dim() and not (kwargs.get("non_blocking") or args[2:]):
                self.waited("copy")
        else:
            self._refuse_two_devices(func, name, args, flat)
        if self._waits(name, args, kwargs):
            self.waited(name)
        floats = any(x.dtype.is_floating_point for x in there)
        self.operators.add(name.strip("_") + " float" * floats)
        shapes = any(x.raw.device == META for x in there)
        shapes = shapes or bool(self.ledger and not there and _makes_floats(kwargs))
        if "device" in kwargs:
            kwargs["device"] = META if shapes else CPU
        flat, spec = tree_flatten((args, kwargs))
        raws = [x.raw if isinstance(x, OnGpu) else x for x in flat]
        given = [x for x in raws if isinstance(x, torch.Tensor)]
        own_args, own_kwargs = tree_unflatten(_shapes_of(raws) if shapes else raws, spec)
        out = _stand_in(func, name, shapes)(*own_args, **own_kwargs)
        if func in SCRATCH:
            self.peak = max(self.peak, self.bytes + SCRATCH[func](*own_args, **own_kwargs))
        if name not in NO_KERNEL:
            self._launched(func, name, given, out)
        if name == "_local_scalar_dense":
            return out
        if isinstance(args[0] if args else None, torch.Tensor) and name == "copy_":
            return args[0]
        same = {id(x.raw): x for x in there}  # what was written to comes back as it was passed
        return tree_map(lambda x: same.get(id(x)) if id(x) in same else self.wrap(x), out)

    def _launched(self, func: Any, name: str, given: list[torch.Tensor], out: Any) -> None:
        made = [x for x in tree_flatten(out)[0] if isinstance(x, torch.Tensor)]
        self.kernels += not self.compiled
        if self.compiled and name in LOOKUPS:
            self.tables.setdefault(given[0].untyped_storage()._cdata, []).extend(made)
        if self.ledger and not self.compiled:
            self.ledger.kernel(func, given, made)

    def wrap(self, raw: Any) -> Any:
        if not isinstance(raw, torch.Tensor):
            return raw
        if self.ledger and raw.is_floating_point():
            raw = _shapes_of([raw])[0]
        if not self.compiled:
            self._count_bytes(raw)
        return OnGpu(raw)

    def _moved(self, func: Any, source: torch.Tensor, kwargs: dict[str, Any]) -> Any:
        from_gpu = isinstance(source, OnGpu)
        device = kwargs.get("device")
        to_gpu = from_gpu if device is None else torch.device(device).type == "cuda"
        rest = {k: v for k, v in kwargs.items() if k not in ("device", "non_blocking")}
        if from_gpu != to_gpu and not kwargs.get("non_blocking"):
            self.waited("copy")
        raw = source.raw if from_gpu else source
        out = func(raw if to_gpu else _on_host(raw), **rest)
        if from_gpu or to_gpu:
            self._launched(func, "_to_copy", [raw], out)
        return self.wrap(out) if to_gpu else out

    def _refuse_two_devices(self, func: Any, name: str, args: Any, flat: list[Any]) -> None:
        for x in flat:
            here = isinstance(x, torch.Tensor) and not isinstance(x, OnGpu) and x.dim() > 0
            if here and not (name in INDEXED and any(i is x for i in args[1])):
                raise RuntimeError(
                    "Expected all tensors to be on the same device, but found at least two devices,"
                    f" cuda:0 and cpu: {func} with {tuple(x.shape)} {x.dtype}"
                )

    @staticmethod
    def _waits(name: str, args: Any, kwargs: dict[str, Any]) -> bool:
        if name == "repeat_interleave":
            return kwargs.get("output_size") is None and isinstance(args[-1], torch.Tensor)
        if name in INDEXED:  # a mask is turned into places first; places of the host are copied
            index = [i for i in args[1] if i is not None]
            return any(i.dtype == torch.bool or not isinstance(i, OnGpu) for i in index)
        return name in WAITS

    def _count_bytes(self, raw: torch.Tensor) -> None:
        storage = raw.untyped_storage()
        key = storage._cdata
        if key in self.alive and not self.alive[key][0].expired():
            return
        self.bytes += storage.nbytes() - self.alive.pop(key, (None, 0))[1]
        self.alive[key] = StorageWeakRef(storage), storage.nbytes()
        if self.bytes > self.peak:
            self._sweep()
            self.peak = max(self.peak, self.bytes)

    def _sweep(self) -> None:
        """Forget what is no longer alive."""
        for key in [key for key, (storage, _) in self.alive.items() if storage.expired()]:
            self.bytes -= self.alive.pop(key)[1]


class Event:
    """torch.cuda.Event"""

    def __init__(self, **_more: Any) -> None: ...

    def record(self, _stream: Any = None) -> None: ...

    def elapsed_time(self, _other: Event) -> float:
        return 1.0

    def synchronize(self) -> None:
        PretendedGpu.current.waited("event")

    def query(self) -> bool:
        return True


class Stream:
    """torch.cuda.Stream"""

    def __init__(self, *_args: Any, **_more: Any) -> None: ...

    def record_event(self, event: Event | None = None) -> Event:
        return event or Event()

    def wait_event(self, _other: Any) -> None:
        pass

    wait_stream = wait_event

    def synchronize(self) -> None:
        PretendedGpu.current.waited("stream")


def as_one_kernel(function: Any, **_options: Any) -> Any:
    """torch.compile: the function itself, counted once."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        mode = PretendedGpu.current
        mode.kernels += not mode.compiled
        mode.compiled += 1
        try:
            out = function(*args, **kwargs)
        finally:
            mode.compiled -= 1
        if mode.compiled:
            return out
        written = _raws_in(out)
        for raw in written:  # what it makes on the way is never in memory
            mode._count_bytes(raw)
        if mode.ledger:
            read = [x for x in _raws_in((args, kwargs)) if _storage(x) not in mode.tables]
            looked_up = [x for rows in mode.tables.values() for x in rows]
            mode.ledger.compiled(function, read, looked_up, written)
        mode.tables = {}
        return out

    return call


def _raws_in(tree: Any) -> list[torch.Tensor]:
    """What the tensors of a tree hold, also those in fields of dataclasses."""
    leaves = [
        value
        for x in tree_flatten(tree)[0]
        for value in (vars(x).values() if is_dataclass(x) else (x,))
    ]
    return [x.raw for x in leaves if isinstance(x, OnGpu)]


def _storage(raw: torch.Tensor) -> int:
    return raw.untyped_storage()._cdata


def _shapes_of(values: list[Any]) -> list[Any]:
    """The same with tensors that have shapes and no numbers."""

    def shape_of(x: Any) -> Any:
        if not isinstance(x, torch.Tensor) or x.device == META or not x.dim():
            return x
        return torch.empty_strided(x.size(), x.stride(), dtype=x.dtype, device=META)

    return [shape_of(x) for x in values]


def _on_host(raw: torch.Tensor) -> torch.Tensor:
    """What the host reads; ones, of a tensor that has no numbers."""
    return torch.ones(raw.shape, dtype=raw.dtype) if raw.device == META else raw


def _stand_in(func: Any, name: str, shapes: bool) -> Any:
    """What carries an operator out on a CPU, or on shapes alone."""
    if shapes and name.startswith("_fused_adam"):  # in place, and PyTorch has none for shapes
        return lambda *_args, **_kwargs: None
    return func if shapes else EMULATED.get(func, func)


def _makes_floats(kwargs: dict[str, Any]) -> bool:
    """Whether an operator of no tensors makes one of floating-point numbers."""
    dtype = kwargs.get("dtype")
    return dtype is not None and dtype.is_floating_point


def install() -> None:
    """What of `torch` does not go through the dispatcher."""
    for name in ("tensor", "as_tensor"):
        setattr(torch, name, _on_device(getattr(torch, name)))
    torch.empty = _unpinned(torch.empty)
    torch.compile = as_one_kernel
    torch.inference_mode = lambda mode=True: torch.no_grad()  # tensors of our own know none
    torch.Tensor.pin_memory = lambda tensor, device=None: tensor
    torch.Tensor.record_stream = lambda tensor, stream: None
    torch.utils._foreach_utils._foreach_supported_types.append(OnGpu)
    cuda = torch.cuda
    cuda.Event, cuda.Stream, cuda._lazy_init = Event, Stream, lambda: None
    cuda.stream = lambda stream: contextlib.nullcontext()
    cuda.current_stream = lambda device=None: Stream()
    cuda.synchronize = lambda device=None: PretendedGpu.current.waited("synchronize")
    cuda.is_available, cuda.device_count = lambda: True, lambda: 1
    cuda.current_device, cuda.set_device = lambda: 0, lambda device: None
    cuda.get_device_name = lambda device=None: "pretended"
    cuda.get_device_capability = lambda device=None: (9, 0)
    properties = SimpleNamespace(shared_memory_per_block_optin=232448)
    cuda.get_device_properties = lambda device=None: properties


def _on_device(make: Any) -> Any:
    def call(data: Any, *args: Any, device: Any = None, **more: Any) -> torch.Tensor:
        if device is None or torch.device(device).type != "cuda" or isinstance(data, OnGpu):
            return make(data, *args, **more)
        return make(data, *args, **more).to(GPU)

    return call


def moved(module: torch.nn.Module) -> torch.nn.Module:
    """`module.to("cuda")`, in place: weights and buffers are replaced."""
    for part in module.modules():
        for name, weight in list(part._parameters.items()):
            if weight is not None:
                there = torch.nn.Parameter(weight.detach().to(GPU), weight.requires_grad)
                part._parameters[name] = there
        for name, buffer in list(part._buffers.items()):
            if buffer is not None:
                part._buffers[name] = buffer.to(GPU)
    return module


def _unpinned(make: Any) -> Any:
    """Threads that read packs have no mode, which would do the same. `with torch.device(...)` does
    not know the function that stands here."""

    def call(*size: int, pin_memory: bool = False, **more: Any) -> torch.Tensor:
        return make(*size, **more | {"device": more.get("device") or torch.get_default_device()})

    return call
