"""Twenty steps on synthetic packs under every division of the ranks; run by torchrun.

python -m torch.distributed.run --nproc-per-node N -m tests.training.steps_worker FOLDER
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path

import torch
from safetensors.torch import save_file

from benchmarks.synthetic import shard_of
from eagle3.objective.sequence_parallel.sharding import SequenceSharding
from eagle3.objective.ttt import Objective, TargetParts
from eagle3.parallel.ranks import TIMEOUTS, Ranks, joined_ranks, sequence_groups
from eagle3.training.data_parallel import masters_of
from eagle3.training.optimizer import build_optimizers, optimizer_tensors
from eagle3.training.step import StepRunner
from tests.objective.cases import SWITCHES, pack_of, random_documents, target_parts, tiny_draft

TYPES = {"float64": torch.float64, "float32": torch.float32}
RECIPES = {"soft_ce": 20, "lk_hybrid": 3, "variants": 3, "muon": 3}  # steps under each
STEPS, CLIP = 4, 0.05  # every norm is above it
LAYOUTS = [("ddp", 1, 1), ("fsdp2", 1, 1), ("ddp", 2, 1), ("fsdp2", 1, 2), ("fsdp2", 2, 2)]
LENGTHS = [[23, 9], [31], [5, 6, 7]]  # of a batch's packs: three, which no even number divides


def cases(world):
    """Layouts, types and recipes that so many ranks can try."""
    for number, (kind, ulysses, ring) in enumerate(LAYOUTS):
        if world % (ulysses * ring) == 0:
            types = TYPES if number in (0, len(LAYOUTS) - 2) else ["float64"]  # they cost seconds
            for name, recipe in product(types, RECIPES):
                if recipe != "muon" or kind == "ddp":
                    yield kind, ulysses, ring, name, recipe


@cache
def batch(number, dtype):
    """Packs of a step, and what training keeps of the target."""
    generator = torch.Generator().manual_seed(0)
    head, target = target_parts(generator)
    generator.manual_seed(number + 1)
    packs = []
    for lengths in LENGTHS:
        masks = [(torch.rand(n, generator=generator) < 0.8).int().tolist() for n in lengths]
        pack = pack_of(random_documents(generator, masks), head)
        states = {name: getattr(pack, name).to(dtype) for name in ("aux", "last", "teacher_lse")}
        packs.append(replace(pack, **states))
    parts = TargetParts(target.embedding.to(dtype), target.head.to("cpu", dtype), target.draft_ids)
    return packs, parts


def train(ranks, kind, dtype, recipe):
    """Losses, norms before clipping and last weights of some steps. `variants`: all switches of the
    draft, more rows, and a head that is not trained."""
    variants = recipe == "variants"
    draft = tiny_draft(**SWITCHES["all of two layers" if variants else "plain"]).to(dtype)
    draft.lm_head.requires_grad_(not variants)
    masters = masters_of(kind, draft, ranks)
    optimizers = build_optimizers(draft, "muon" if recipe == "muon" else "adamw", 0.01, ranks)
    objective = Objective(
        steps=STEPS,
        dtype=dtype,
        loss="lk_hybrid" if recipe == "lk_hybrid" else "soft_ce",
        attention="usp" if ranks.ulysses.size > 1 else "auto",
        active_rows="supervised" if variants else "reachable",
    )
    _, target = batch(0, dtype)
    runner = StepRunner(draft, target, masters, optimizers, objective, CLIP, ranks)
    losses, norms = [], []
    for number in range(RECIPES[recipe]):
        packs, _ = batch(number, dtype)
        rows = sum(len(pack.last) for pack in packs)
        mine = [
            shard_of(pack, SequenceSharding(ranks, STEPS))
            for pack in packs[ranks.data.index :: ranks.data.size]
        ]
        result = runner.run(iter(mine), len(mine), rows, 1e-3, stop=False)
        losses.append(float(result.totals.loss.sum() / rows))
        norms.append(result.gradient_norm)
    weights = {name: masters.whole(weight) for name, weight in draft.named_parameters()}
    if kind == "ddp":  # every rank has the same bits, whoever updated a matrix
        for weight in weights.values():
            assert all(torch.equal(weight, other) for other in ranks.gather(weight))
    for name, parameter in draft.named_parameters():  # what is saved comes back, whoever holds it
        assert torch.equal(masters.whole(masters.placed(weights[name], parameter)), weights[name])
    if recipe == "muon":  # as it is saved, from the ranks that have it
        state = dict(optimizer_tensors(draft, optimizers))
        kept = {n: t.clone() for n, t in state.items() if n.startswith("momentum_buffer")}
        assert len(kept) == 8
        weights |= kept
    return losses, norms, weights


def main():
    result = {}
    with joined_ranks("cpu") as alone:
        for kind, ulysses, ring, name, recipe in cases(alone.world):
            ranks = alone
            if ulysses * ring > 1:
                groups = sequence_groups(alone.rank, alone.world, ulysses, ring, TIMEOUTS["cpu"])
                ranks = Ranks(alone.rank, alone.world, alone.device, *groups)
            case = f"{kind}-{ulysses}x{ring}-{name}-{recipe}"
            result[case] = train(ranks, kind, TYPES[name], recipe)
        if alone.first:
            weights = {f"{c}/{n}": w for c, run in result.items() for n, w in run[2].items()}
            folder = Path(sys.argv[1])
            save_file(weights, folder / "weights.safetensors")
            figures = {case: run[:2] for case, run in result.items()}
            (folder / "figures.json").write_text(json.dumps(figures))


if __name__ == "__main__":
    main()
