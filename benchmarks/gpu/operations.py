"""Parts of a training step compared with the CPU: compiled operations, attention, the loss.

Compiled operations are compared with the uncompiled ones, attention with the dense reference in
float64, loss and gradients with those of the CPU in float32.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from benchmarks.gpu.bench import CPU, Bench, Row, compared, difference, tensors_in
from benchmarks.synthetic import Shape, build_draft, build_pack
from eagle3.kernels import fused_ops
from eagle3.kernels import heads as heads_of
from eagle3.kernels.matmul import add_weight_gradient, weight_gradient
from eagle3.objective import losses, teacher
from eagle3.objective.attention import own_keys
from eagle3.objective.attention.interface import Keys, Queries, reference_attention
from eagle3.objective.dispatch import BACKENDS
from eagle3.objective.pack import Pack
from eagle3.objective.settings import Objective, TargetParts
from eagle3.objective.teacher import TeacherProbs
from eagle3.objective.ttt import ttt_loss
from eagle3.parallel.ranks import Ranks
from eagle3.training.data_parallel import Replicated
from eagle3.training.optimizer import build_optimizers
from eagle3.training.step import StepRunner

BF16, FP32 = torch.bfloat16, torch.float32
BOUNDS = {BF16: 2e-2, FP32: 2e-4}
SMALL = Shape(256, 512, 8, 2, 32, 2048, 512, 2, 512)
LENGTHS = [400, 90, 257, 7]


def operations(bench: Bench) -> Iterator[Row]:
    """Every function that is compiled on CUDA, and the product of weight gradients."""
    draw = torch.Generator().manual_seed(0)
    rows, width, vocab = (48, 32, 96) if bench.tiny else (384, 256, 4096)

    def normal(*size: int, dtype: torch.dtype = BF16) -> torch.Tensor:
        return torch.randn(*size, generator=draw).to(dtype)

    fp32, gain = partial(normal, dtype=FP32), normal(width, dtype=FP32)
    x, dy, up, scale = normal(rows, width), normal(rows, width), normal(rows, width), fp32(rows, 1)
    angles = fp32(30, 1, width // 8)
    places, positions = torch.arange(rows) % 40, torch.arange(rows) % 30
    cases: dict[str, tuple[Any, ...]] = {
        "_norm": (x, gain, 1e-5),
        "_norm_backward": (dy, x, gain, scale.abs()),
        "_gain_gradient": (dy, x, scale.abs()),
        "_gated": (x, up),
        "_gated_backward": (dy, x, up),
        "_heads": (x, fp32(40, width), places, angles.cos(), angles.sin(), positions, 3, BF16),
        "_heads_backward": (
            [normal(rows, heads, width // 4) for heads in (2, 1, 1)],
            *(angles.cos(), angles.sin(), positions, 3, BF16),
        ),
        "distributions": (fp32(rows, vocab), 9 + fp32(rows)),
    }
    for name, inputs in cases.items():
        call = (vars(fused_ops) | vars(heads_of) | vars(teacher))[name]
        yield bench.row(name, partial(_as_written, bench, call, inputs))
    for kind in losses.LOSSES:
        probs = TeacherProbs(
            p=fp32(rows, vocab).softmax(-1),
            on_draft=fp32(rows).sigmoid(),
            entropy=fp32(rows).abs(),
            log_p=fp32(rows, vocab).log_softmax(-1),
        )
        place = torch.arange(rows).flip(0)
        inputs = (kind, fp32(rows, vocab), probs, place, fp32(rows).sigmoid())
        yield bench.row(f"loss {kind}", partial(_as_written, bench, losses.row_losses, inputs))

    heads, steps = (2, 2) if bench.tiny else (8, 6)
    q, prefix, dout, dq = (normal(rows, 2 * heads, 16) for _ in range(4))
    lse = fp32(rows, 2 * heads)
    own = [normal(rows + 64, heads, 16) for _ in range(2 * steps)]
    index = [torch.randint(rows + 64, (rows,), generator=draw) for _ in range(steps)]
    terms = own[:steps], own[steps:], index
    merged, merged_lse = own_keys.merged_with_own(q, prefix, lse, *terms)
    for call, inputs in (
        (own_keys.merged_with_own, (q, prefix, lse, *terms)),
        (own_keys.own_gradients, (dout, q, merged, merged_lse, dq, *terms)),
        (own_keys.prefix_gradients, (dout, prefix, lse, merged, merged_lse)),
    ):
        name = f"{call.__name__}, {steps} keys"
        yield bench.row(name, partial(_as_written, bench, call, inputs))

    def product() -> Row:
        total = weight_gradient(dy.to(bench.device), x.to(bench.device), FP32)
        once = total.clone()
        add_weight_gradient(total, dy.to(bench.device), x.to(bench.device))
        bound = 1e-5 if bench.on_gpu else 1e-2  # a CPU may round the sum to bfloat16
        expected = dy.double().T @ x.double()
        return compared([once, total], [expected, 2 * expected], bound)

    yield bench.row("weight_gradient", product)


def _as_written(bench: Bench, call: Any, inputs: tuple[Any, ...]) -> Row:
    """A compiled function compared with the uncompiled one on the CPU."""
    result = list(tensors_in(call(*(_moved(value, bench.device) for value in inputs))))
    written = inspect.unwrap(call)
    expected = list(tensors_in(written(*(_moved(value, CPU) for value in inputs))))
    return compared(result, expected, 1e-2)


def _moved(value: Any, device: torch.device) -> Any:
    """A copy on the device: some functions overwrite their arguments."""
    if isinstance(value, torch.Tensor):
        return value.to(device, copy=True)
    if isinstance(value, TeacherProbs):
        return TeacherProbs(*(t.to(device, copy=True) for t in vars(value).values()))
    if isinstance(value, list):
        return [_moved(item, device) for item in value]
    return value


def attention(bench: Bench) -> Iterator[Row]:
    """Values and all gradients of the back ends, at usual head sizes and steps."""
    sizes = [16] if bench.tiny else [64, 128]
    lengths = [60, 5, 33] if bench.tiny else [1500, 5, 700, 129]
    names = {"flash": (BF16,), "flex": (BF16, FP32)} if bench.on_gpu else {"flash": (BF16, FP32)}
    for name, dtypes in (names | {"chunked": (BF16, FP32)}).items():
        for dtype in dtypes:
            for head_dim in sizes:
                for steps in (0, 5):
                    what = f"{name} {_short(dtype)}, heads of {head_dim}, {steps} steps later"
                    work = partial(_attended, bench, name, dtype, head_dim, steps, lengths)
                    yield bench.row(what, work)


def _attended(
    bench: Bench, name: str, dtype: torch.dtype, head_dim: int, steps: int, lengths: list[int]
) -> Row:
    draw = torch.Generator().manual_seed(7)
    total = sum(lengths)
    starts = torch.tensor([sum(lengths[:i]) for i, n in enumerate(lengths) for _ in range(n)])
    sets = [(torch.rand(total, generator=draw) < 0.5).nonzero().flatten()]
    for _ in range(steps):
        keeps = torch.rand(len(sets[-1]), generator=draw) < 0.8
        keeps[0] = True
        sets.append(sets[-1][keeps])
    active, own = sets[-1], [torch.searchsorted(earlier, sets[-1]) for earlier in sets[1:]]
    counts = [total, total, *[len(later) for later in sets[1:]] * 2]
    tensors = [torch.randn(len(active), 8, head_dim, generator=draw)]
    tensors += [torch.randn(count, 2, head_dim, generator=draw) for count in counts]
    tensors = [tensor.to(dtype) for tensor in tensors]
    down = torch.randn(len(active), 8 * head_dim, generator=draw).to(dtype)

    def run(backend: Any, device: torch.device, compute_dtype: torch.dtype) -> list[torch.Tensor]:
        q, k0, v0, *later = (
            tensor.to(device, compute_dtype, copy=True).requires_grad_() for tensor in tensors
        )
        keys = Keys(k0, v0, later[:steps], later[steps:])
        where = [index.to(device) for index in own]
        queries = Queries(active.to(device), starts[active].to(device), where)
        out = backend(q, keys, queries)
        out.backward(down.to(device, compute_dtype))
        return [out, *(leaf.grad for leaf in (q, k0, v0, *later))]

    result = run(BACKENDS[name], bench.device, dtype)
    return compared(result, run(reference_attention, CPU, torch.float64), BOUNDS[dtype])


def loss(bench: Bench) -> Iterator[Row]:
    """The whole objective and one optimiser step, against the CPU's in float32."""
    shape = Shape(32, 48, 2, 1, 16, 96, 64, 2, 40) if bench.tiny else SMALL
    lengths = [40, 9, 26, 7] if bench.tiny else LENGTHS
    draft = build_draft(shape, CPU)
    pack, target, _ = build_pack(shape, 0.64, CPU, BF16, lengths)
    rounded = target.head.to(CPU, BF16)
    target = TargetParts(target.embedding, rounded.to(CPU, FP32), target.draft_ids)
    expected, _ = ttt_loss(draft, pack, target, Objective(dtype=FP32))
    expected.backward()
    gradients = [p.grad.clone() for p in draft.parameters() if p.grad is not None]
    device_pack = Pack(**{name: t.to(bench.device) for name, t in pack.tensors().items()})
    parts = TargetParts(
        target.embedding.to(bench.device),
        rounded.to(bench.device, BF16 if bench.on_gpu else FP32),
        target.draft_ids.to(bench.device),
    )

    def whole(objective: Objective) -> Row:
        copied = copy.deepcopy(draft).to(bench.device)
        copied.zero_grad()
        result, _ = ttt_loss(copied, device_pack, parts, objective)
        result.backward()
        device_grads = [p.grad for p in copied.parameters() if p.grad is not None]
        bound = 3e-2 if objective.dtype == BF16 else 1e-3
        return {"loss": difference(result, expected)} | compared(device_grads, gradients, bound)

    for dtype in (BF16, FP32):
        for name in ("auto",) if bench.tiny else ("auto", "chunked"):
            for recompute in (False, True):
                what = f"{_short(dtype)}, {name}, recompute {recompute}"
                objective = Objective(dtype=dtype, attention=name, recompute=recompute)
                yield bench.row(what, partial(whole, objective))
    for kind in ("adamw", "muon"):

        def stepped(device: torch.device, batch: Pack, by: TargetParts, kind: str) -> list[Any]:
            trained = copy.deepcopy(draft).to(device)
            trained.zero_grad()
            ranks = Ranks(0, 1, device)
            optimizers = build_optimizers(trained, kind, 0.01, ranks)
            runner = StepRunner(
                trained, by, Replicated(trained, ranks), optimizers, Objective(), 0.5, ranks
            )
            for _ in range(2):
                runner.run(iter([batch]), 1, len(batch.last), 1e-3, False)
            return list(trained.parameters())

        yield bench.row(
            f"two steps of {kind}",
            lambda kind=kind, of=stepped: compared(
                of(bench.device, device_pack, parts, kind), of(CPU, pack, target, kind), 1e-3
            ),
        )


def _short(dtype: torch.dtype) -> str:
    return {BF16: "bf16", FP32: "fp32"}[dtype]
