"""Whole optimiser steps: tokens/s, share of the GPU's peak, memory, waits and launches.

At the draft shape of Llama-3.1-8B, in packs of 8k, 16k and 32k tokens, with and without recompute;
and at the shape of SpecForge's published packed step on one H200 (docs/sections/benchmarks/
eagle3-sequence-packing.md there, commit 603b7ae, 2026-10-02: 25 % prompt, draft vocabulary = target
vocabulary, seven steps, bfloat16, optimiser included, reading states left out), its figures beside.
"""

from __future__ import annotations

import math
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from benchmarks.gpu.bench import Bench, Row
from benchmarks.synthetic import KNOWN_ANSWERS, KNOWN_TOKENS, Shape, answers, draft_config
from eagle3.draft.model import Eagle3Draft
from eagle3.objective.pack import Pack
from eagle3.objective.settings import Objective, TargetParts
from eagle3.parallel.ranks import Ranks
from eagle3.target_model.reader import Head
from eagle3.training.data_parallel import Replicated
from eagle3.training.optimizer import build_optimizers
from eagle3.training.step import StepResult, StepRunner

GIB = 2**30
LLAMA_8B = Shape(4096, 14336, 32, 8, 128, 128256, 32000, 1, 1)
TINY = Shape(32, 48, 2, 1, 16, 96, 64, 1, 1)
MIXED, SHORT = [512, 768, 1024, 2048], [128, 256, 512, 2048]


@dataclass(frozen=True)
class Published:
    """A packed step with figures published by SpecForge."""

    shape: Shape
    lengths: list[int]
    tokens_per_second: float
    gib: float


SPECFORGE = [
    Published(Shape(2048, 8192, 16, 4, 128, 32000, 32000, 1, 1), [1024] * 4, 53.4e3, 9.17),
    Published(Shape(2048, 8192, 16, 4, 128, 32000, 32000, 1, 1), MIXED, 42.6e3, 9.60),
    Published(Shape(2048, 8192, 16, 4, 128, 32000, 32000, 1, 1), SHORT, 33.4e3, 7.21),
    Published(Shape(4096, 14336, 32, 8, 128, 32000, 32000, 1, 1), SHORT, 26.0e3, 12.97),
]


class Trial:
    """A draft, its optimiser and one pack, on the device."""

    def __init__(
        self,
        bench: Bench,
        shape: Shape,
        lengths: list[int],
        supervised: float,
        recompute: bool = False,
    ) -> None:
        self.bench, self.lengths = bench, lengths
        self.config = draft_config(shape)
        torch.manual_seed(0)
        with torch.device(bench.device):
            draft = Eagle3Draft(self.config)
        draft.to(bench.device)  # tensors that are not parameters too
        ranks = Ranks(0, 1, bench.device)
        self.pack, target = random_pack(bench, shape, lengths, supervised)
        optimizers = build_optimizers(draft, "adamw", 0.01, ranks)
        objective = Objective(dtype=bench.narrow, recompute=recompute)
        self.runner = StepRunner(
            draft.to(bench.device),
            target,
            Replicated(draft, ranks),
            optimizers,
            objective,
            0.5,
            ranks,
        )

    def step(self) -> StepResult:
        return self.runner.run(iter([self.pack]), 1, len(self.pack.last), 1e-5, False)

    def figures(self) -> Row:
        """Time, throughput, arithmetic and memory of a step."""
        bench, tokens = self.bench, sum(self.lengths)
        results: list[StepResult] = []
        started = time.perf_counter()
        self.step()
        bench.wait()
        first = time.perf_counter() - started
        if bench.on_gpu:
            torch.cuda.reset_peak_memory_stats(bench.device)
        seconds = bench.seconds(lambda: results.append(self.step()), repeat=4)
        result = results[-1]
        flops = result.totals.work(len(self.pack.aux)).flops(self.config)
        return {
            "first step s": first,
            "step ms": seconds * 1e3,
            "tokens/s": tokens / seconds,
            "useful TFLOP/s": flops / seconds / 1e12,
            "MFU": flops / seconds / bench.peak if bench.peak else None,
            "peak GiB": torch.cuda.max_memory_allocated(bench.device) / GIB
            if bench.on_gpu
            else None,
            **{f"{phase} ms": round(s * 1e3, 2) for phase, s in result.seconds.items()},
        }


def steps(bench: Bench) -> Iterator[Row]:
    """Packs of the 8B draft shape."""
    shape = TINY if bench.tiny else LLAMA_8B
    sizes = [(96, 48)] if bench.tiny else [(8192, 2048), (16384, 2048), (32768, 4096)]
    for tokens, length in sizes:
        for recompute in (False, True):
            what = f"{tokens} tokens in documents of {length}, recompute {recompute}"
            yield bench.row(
                what,
                lambda n=tokens // length, length=length, again=recompute: Trial(
                    bench, shape, [length] * n, 0.64, again
                ).figures(),
                seconds=40,
            )


def published(bench: Bench) -> Iterator[Row]:
    """SpecForge's packed step; `times` is how much faster than its published figure."""
    for case in SPECFORGE[-1:] if bench.tiny else SPECFORGE:
        shape = Shape(16, 24, 2, 1, 8, 64, 64, 1, 1) if bench.tiny else case.shape
        lengths = [max(n // 64, 6) for n in case.lengths] if bench.tiny else case.lengths

        def beside(shape: Shape, lengths: list[int], case: Published) -> Row:
            result = Trial(bench, shape, lengths, 0.75).figures()
            ours = result["tokens/s"]
            theirs = {"published tokens/s": case.tokens_per_second, "published GiB": case.gib}
            return result | theirs | {"times": ours / case.tokens_per_second}

        yield bench.row(
            f"H {case.shape.hidden}, documents {case.lengths}",
            partial(beside, shape, lengths, case),
            seconds=30,
        )


def host(bench: Bench) -> Iterator[Row]:
    """The host in a step: waits for the device, and kernel launches."""
    shape, lengths = (TINY, [48, 48]) if bench.tiny else (LLAMA_8B, [2048] * 4)

    def counted() -> Row:
        trial = Trial(bench, shape, lengths, 0.64)
        trial.step()
        launched, top = launches(bench, trial)
        waits = waits_of(bench, trial)
        return {
            "waits": sum(waits.values()) if bench.on_gpu else None,
            "launches": launched,
            "waits by line": dict(waits.most_common(20)),
            "longest kernels": top,
        }

    yield bench.row("one step", counted, seconds=30)


def waits_of(bench: Bench, trial: Trial) -> Counter[str]:
    """How often the host waits for the device in a step, by line of code."""
    if not bench.on_gpu:
        return Counter()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            trial.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return Counter(f"{Path(warning.filename).name}:{warning.lineno}" for warning in warned)


def launches(bench: Bench, trial: Trial) -> tuple[int, list[list[object]]]:
    """Kernels of a step (on a CPU, operators), and the ones that take longest in milliseconds."""
    from torch.profiler import ProfilerActivity, profile

    gpu_activities = [ProfilerActivity.CUDA] if bench.on_gpu else []
    with profile(activities=[ProfilerActivity.CPU, *gpu_activities]) as record:
        trial.step()
        bench.wait()
    kind = torch.autograd.DeviceType.CUDA if bench.on_gpu else torch.autograd.DeviceType.CPU
    events = [event for event in record.key_averages() if event.device_type == kind]

    def took(event: object) -> float:
        name = "self_device_time_total" if bench.on_gpu else "self_cpu_time_total"
        return getattr(event, name) / 1e3

    top = sorted(events, key=took, reverse=True)[:20]
    rows: list[list[object]] = [[e.key[:90], e.count, round(took(e), 3)] for e in top]
    return sum(event.count for event in events), rows


def random_pack(
    bench: Bench, shape: Shape, lengths: list[int], supervised: float
) -> tuple[Pack, TargetParts]:
    """As `synthetic.build_pack`, but with states and weights generated on the device."""
    draw, device, hidden = torch.Generator().manual_seed(0), bench.device, shape.hidden
    mask = torch.cat([answers(length, supervised) for length in lengths])
    sizes = torch.tensor(lengths)
    documents = torch.arange(len(lengths)).repeat_interleave(sizes)
    positions = torch.cat([torch.arange(length) for length in lengths])
    row_tokens = (positions < sizes[documents] - 2).nonzero().flatten()
    same_document = documents[1:] == documents[:-1]
    last_tokens = (mask[:-1] & mask[1:] & same_document & (positions[:-1] >= 1)).nonzero().flatten()
    order = torch.randperm(shape.vocab, generator=draw)
    vocabulary, outside_vocabulary = (
        order[: shape.draft_vocab].sort().values,
        order[shape.draft_vocab :],
    )
    draft_ids = torch.full((shape.vocab,), -1, dtype=torch.int64)
    draft_ids[vocabulary] = torch.arange(shape.draft_vocab)

    def tokens(count: int, share: float) -> torch.Tensor:
        known_tokens = vocabulary[torch.randint(len(vocabulary), (count,), generator=draw)]
        if not len(outside_vocabulary):
            return known_tokens
        other_tokens = outside_vocabulary[
            torch.randint(len(outside_vocabulary), (count,), generator=draw)
        ]
        return torch.where(torch.rand(count, generator=draw) < share, known_tokens, other_tokens)

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(*size, device=device, dtype=bench.narrow)

    pack = Pack(
        input_ids=tokens(len(mask), KNOWN_TOKENS),
        loss_mask=mask,
        documents=documents,
        positions=positions,
        aux=normal(len(row_tokens), 3 * hidden),
        row_tokens=row_tokens,
        last=normal(len(last_tokens), hidden),
        last_tokens=last_tokens,
        teacher_argmax=tokens(len(last_tokens), KNOWN_ANSWERS),
        teacher_lse=torch.full((len(last_tokens),), math.log(shape.vocab) + 0.5),
    )
    moved = Pack(**{n: t.to(device) for n, t in pack.tensors().items()}, host=pack.columns)
    head = Head(normal(shape.draft_vocab, hidden) * hidden**-0.5)
    embedding = normal(shape.vocab, hidden).to(torch.bfloat16)
    return moved, TargetParts(embedding, head, draft_ids.to(device))
