"""What the tests look at, on the pretended GPU and on the CPU: one process, one JSON object.

python -m tests.gpu.scenarios GUARD FOLDER
"""

from __future__ import annotations

import copy
import json
import sys
import traceback
from dataclasses import replace
from functools import partial
from pathlib import Path

from tests.gpu import guard

if __name__ == "__main__":  # before torch
    guard.load(Path(sys.argv[1]))

import numpy as np
import pytest
import torch

from tests.gpu.pretended import CPU, GPU, OnGpu, PretendedGpu, install, moved

if __name__ == "__main__":  # before the project
    install()

from benchmarks.gpu.states import SMALL, TOKENS, _settings, _shard, _token_shard, random_target
from benchmarks.synthetic import Shape, build_draft, build_pack, shard_of
from eagle3.capture.shard_capture import capture
from eagle3.evaluation.decoding import GREEDY, Limits, Models, decode_batch
from eagle3.kernels import torch_internals
from eagle3.objective.attention import flex as flex_attention
from eagle3.objective.memory import StepMemory
from eagle3.objective.pack import Pack
from eagle3.objective.sequence_parallel import attention as exchanging
from eagle3.objective.sequence_parallel import collectives
from eagle3.objective.sequence_parallel.sharding import SequenceSharding
from eagle3.objective.settings import Objective, TargetParts
from eagle3.objective.ttt import ttt_loss
from eagle3.parallel.ranks import Group, Ranks
from eagle3.store.codecs import CODECS
from eagle3.training.data import TrainingData
from eagle3.training.data_parallel import Replicated
from eagle3.training.loader import read_ahead
from eagle3.training.optimizer import build_optimizers
from eagle3.training.step import StepRunner
from tests.gpu import kernels

BF16, FP32 = torch.bfloat16, torch.float32
SHAPE = Shape(64, 128, 4, 2, 16, 512, 128, 2, 64)
LENGTHS = [64, 40, 90, 7]


def raw(tensor):
    """The numbers of a tensor, wherever it lies."""
    return (tensor.raw if isinstance(tensor, OnGpu) else tensor).detach()


def away(one, other):
    """Norm of the difference over the norm."""
    one, other = raw(one).double(), raw(other).double()
    return float((one - other).norm() / other.norm().clamp_min(1e-30))


def on_gpu(draft):
    there = moved(copy.deepcopy(draft))
    there.inv_freq = there.inv_freq.to(GPU)
    return there


def case(dtype):
    """A draft, a pack and the target's parts on the CPU, and the last two on the GPU."""
    draft = build_draft(SHAPE, CPU)
    pack, target, _ = build_pack(SHAPE, 0.64, CPU, BF16, LENGTHS)
    head = target.head.to(CPU, dtype)
    here = TargetParts(target.embedding, head, target.draft_ids)
    there = TargetParts(target.embedding.to(GPU), head.to(GPU, dtype), target.draft_ids.to(GPU))
    assert isinstance(there.host_draft_ids, torch.Tensor)  # once in a run
    return draft, (pack, here), (on_device(pack), there)


def on_device(pack):
    """As the loader sends it."""
    there = {name: tensor.to(GPU) for name, tensor in pack.tensors().items()}
    return Pack(**there, host=pack.columns)


def loss(mode):
    """Loss and every gradient, on each back end; waits and kernels of a forward and a backward."""
    result = {}
    for name, dtype, recompute in (
        ("auto", BF16, False),
        ("auto", BF16, True),
        ("flex", BF16, False),
        ("chunked", BF16, False),
        ("auto", FP32, False),
        ("chunked", FP32, False),
    ):
        draft, here, there = case(dtype)
        objective = Objective(dtype=dtype, attention=name, recompute=recompute)
        plain = Objective(dtype=dtype, attention="chunked")
        wanted, _ = ttt_loss(draft, *here, plain)
        wanted.backward()
        other = on_gpu(draft)
        for weight in other.parameters():
            weight.grad = None
        mode.reset()
        value, totals = ttt_loss(other, *there, objective)
        value.backward()
        pairs = zip(other.parameters(), draft.parameters(), strict=True)
        result[f"{name} {dtype} {'recompute' if recompute else 'kept'}"] = {
            "loss": away(value, wanted),
            "gradients": max(away(p.grad, q.grad) for p, q in pairs),
            "waits": dict(mode.waits),
            "kernels": mode.kernels,
            "peak": mode.peak,
            "active": raw(totals.active).tolist(),
            "operators": sorted(mode.operators),
        }
    return result


def shared(mode):
    """Loss and gradients of a rank's part of a pack, whose exchanges give rows of its own: the same
    numbers on the CPU and on the GPU, where no exchange works."""
    result = {}
    with pytest.MonkeyPatch.context() as patch:
        for place in (collectives, exchanging):
            patch.setattr(place, "all_to_all", own_rows)
        for name, ulysses in (("auto", 1), ("usp", 2)):
            ring = Group(0, 2 // ulysses) if ulysses == 1 else Group()
            draft, here, there = case(BF16)
            ranks = Ranks(0, 2, GPU, Group(0, 2), Group(0, ulysses), ring)
            sharding = SequenceSharding(ranks, 7)
            part = shard_of(here[0], sharding)
            values, other = [], on_gpu(draft)
            for model, pack, target in (
                (draft, part, here[1]),
                (other, replace(on_device(part), shards=part.shards), there[1]),
            ):
                model.zero_grad()
                mode.reset()
                value, _ = ttt_loss(model, pack, target, Objective(dtype=BF16, attention=name))
                value.backward()
                values.append(value)
            pairs = zip(other.parameters(), draft.parameters(), strict=True)
            result[name] = {
                "loss": away(values[1], values[0]),
                "gradients": max(away(p.grad, q.grad) for p, q in pairs),
                "waits": dict(mode.waits),
                "kernels": mode.kernels,
            }
    return result


def own_rows(rows, _sent, received, _group):
    """As many rows as an exchange would give."""
    return rows[torch.arange(sum(received), device=rows.device) % len(rows)]


def step(mode):
    """Two optimiser steps of each kind, against the CPU's; counts are of the second."""
    found = {}
    for kind in ("adamw", "muon"):
        draft, here, there = case(FP32)
        other = on_gpu(draft)
        for each, device, parts in ((draft, CPU, here), (other, GPU, there)):
            ranks = Ranks(0, 1, device)
            optimizers = build_optimizers(each, kind, 0.01, ranks)
            objective = Objective(attention="chunked")
            masters = Replicated(each, ranks)
            runner = StepRunner(each, parts[1], masters, optimizers, objective, 0.5, ranks)
            for _ in range(2):
                mode.reset()
                result = runner.run(iter([parts[0]]), 1, len(parts[0].last), 1e-3, False)
        pairs = zip(other.parameters(), draft.parameters(), strict=True)
        found[kind] = {
            "weights": max(away(p, q) for p, q in pairs),
            "norm": result.gradient_norm,
            "waits": dict(mode.waits),
            "operators": sorted(mode.operators),
        }
    return found


# memory: two sizes of vocabulary, so that either the layer or the scores have most of it
LAYER_HEAVY = Shape(256, 768, 8, 2, 32, 2048, 96, 2, 64)
SCORES_HEAVY = Shape(256, 768, 8, 2, 32, 2048, 1024, 2, 64)


def memory(mode):
    """Bytes at the peak of a step, and what the estimate says of it."""
    found = {}
    for name, shape in (("layer", LAYER_HEAVY), ("scores", SCORES_HEAVY)):
        draft = build_draft(shape, CPU)
        pack, target, _ = build_pack(shape, 0.64, CPU, BF16, [256] * 2)
        parts = target.embedding.to(GPU), target.head.to(GPU, BF16), target.draft_ids.to(GPU)
        there, device = on_device(pack), Ranks(0, 1, GPU)
        for kind, recompute in (("adamw", False), ("adamw", True), ("muon", False)):
            other = on_gpu(draft)
            objective = Objective(dtype=BF16, recompute=recompute)
            masters = Replicated(other, device)
            optimizers = build_optimizers(other, kind, 0, device)
            runner = StepRunner(
                other, TargetParts(*parts), masters, optimizers, objective, 0.5, device
            )
            for _ in range(2):  # the first one makes the optimiser's state
                mode.reset()
                result = runner.run(iter([there]), 1, len(pack.last), 1e-3, False)
            active = [rows / 512 for rows in result.totals.active.tolist()]
            count = sum(p.numel() for p in other.parameters())
            muon = sum(p.numel() for each in optimizers[1:] for p in each.owners)
            estimate = StepMemory(
                other.config, count, active, recompute=recompute, packs=1, muon=muon
            )
            found[f"{name} {'recompute' if recompute else 'kept'} {kind}"] = {
                "peak": mode.peak,
                "estimate": estimate.bytes(512),
            }
            del runner, masters, optimizers, other
    return found


def codecs(_mode):
    """Which codecs give the same bits both ways."""
    states = torch.randn(40, 3, 64, generator=torch.Generator().manual_seed(0)).to(BF16)
    result = {}
    for name, codec in CODECS.items():
        here, there = codec.encode(states), codec.encode(states.to(GPU))
        same = [same_bits(there[key], part) for key, part in here.items()]
        result[name] = all(same) and same_bits(codec.decode(there, 3), codec.decode(here, 3))
    return result


def same_bits(one, other):
    one, other = (raw(t).contiguous().view(torch.uint8) for t in (one, other))
    return torch.equal(one, other)


def captured(mode, folder):
    """A shard captured by the HF engine, and packs read from it; waits of each batch and pack."""
    tokens, result = _token_shard(folder / "tokens", 12, 5, 60, SMALL.vocab), {}
    for codec in ("bf16", "nf4"):
        for device in (CPU, GPU):
            engine, head = random_target(SMALL, CPU, FP32)
            if device is GPU:
                moved(engine.body)
                engine.device, head = GPU, head.to(GPU, FP32)
            path = folder / f"{codec}-{device.type}"
            shard = _shard(path, tokens, head, FP32, codec, device)
            batches, add = [], shard.add

            def counted(*args, add=add, batches=batches):
                add(*args)
                own = {k: n for k, n in mode.waits.items() if "writer.py" not in k}
                batches.append(own)  # the writer waits in a thread of its own
                mode.reset()

            shard.add = counted
            mode.reset()
            capture(engine, shard, 256)
            shard.finish()
            shard.close()
        paths = [folder / f"{codec}-{name}" for name in ("cpu", "cuda")]
        digests = TOKENS.digest, _settings(codec).digest
        one, other = (TrainingData([folder / "tokens"], [p], *digests) for p in paths)
        every = np.arange(len(tokens))
        whole = [t.pack(every).tensors().values() for t in (one, other)]
        packs = [np.array(numbers) for numbers in ([3, 0], [5], [1, 2, 4])]
        mode.reset()
        same, there = [], []
        for pack, numbers in zip(read_ahead(one, packs, GPU), packs, strict=True):
            wanted = one.pack(numbers).tensors()
            there += [isinstance(tensor, OnGpu) for tensor in pack.tensors().values()]
            same += [same_bits(t, wanted[name]) for name, t in pack.tensors().items()]
            same += [torch.equal(t, wanted[name]) for name, t in vars(pack.host).items()]
        result[codec] = {
            "shards": [away(b, a) for a, b in zip(*whole, strict=True)],
            "waits of batches": batches,
            "packs": all(same),
            "there": all(there),
            "waits of packs": dict(mode.waits),
        }
    return result


def refusals(mode):
    """What a GPU refuses is refused, and what it waits for is counted."""
    here = torch.ones(8, 2, 16)
    there, bounds = here.to(GPU), torch.tensor([0, 8], dtype=torch.int32, device=GPU)

    def flash(dtype, size):
        q = there[..., :size].contiguous().to(dtype)
        return torch_internals.cuda_flash_attention(q, q, q, bounds, 8)

    tries = {
        "two devices": lambda: there + here,
        "flash in float32": lambda: flash(FP32, 16),
        "flash with heads of 4": lambda: flash(BF16, 4),
        "wide sum of float32": lambda: torch.mm(there[:, 0], there[:, 0].T, out_dtype=BF16),
        "numpy": there.numpy,
    }
    result = {}
    for name, work in tries.items():
        try:
            work()
        except (RuntimeError, TypeError) as fault:
            result[name] = str(fault)
    flash(BF16, 16)
    mode.reset()
    there.sum().item(), there[there > 0], there.cpu(), here.to(GPU)
    here.to(GPU, non_blocking=True), there * 2
    return {"refused": result, "waits": sum(mode.waits.values()), "kernels": mode.kernels}


def evaluation(_mode):
    """Greedy answers and what the draft would have had accepted."""
    result = []
    draft = build_draft(Shape(64, 128, 4, 2, 16, SMALL.vocab, 128, 1, 64), CPU)
    for device in (CPU, GPU):
        engine, head = random_target(SMALL, CPU, FP32)
        own = draft
        if device is GPU:
            moved(engine.body)
            engine.device, head, own = GPU, head.to(GPU, FP32), on_gpu(draft)
        embedding = raw(engine.body.embed_tokens.weight).to(device)
        ids = torch.arange(0, 128 * 7, 7).to(device)
        pair = Models(engine, head, own, embedding, ids)
        prompts = [[5, 6, 7], [8, 9, 10, 11, 12], [900, 3]]
        with torch.no_grad():
            answers = decode_batch(pair, prompts, Limits(8, set(), 3), GREEDY)
        result.append([[a.tokens, a.committed, a.target_passes] for a in answers])
    return {"same": result[0] == result[1], "answers": result[1]}


def main() -> None:
    flex_attention._kernels = lambda device: (kernels.flex, lambda seen, *_sizes, **_more: seen)
    folder, result = Path(sys.argv[2]), {}
    parts = {
        "refusals": refusals,
        "loss": loss,
        "shared": shared,
        "step": step,
        "memory": memory,
        "codecs": codecs,
        "capture": partial(captured, folder=folder),
        "evaluation": evaluation,
    }
    for name, part in parts.items():
        with PretendedGpu() as mode:
            try:
                result[name] = part(mode)
            except Exception:  # the test of this part shows it, the others go on
                result[name] = {"fault": traceback.format_exc()}
    (folder / "found.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main()
