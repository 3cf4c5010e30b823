"""Ranks that share packs, under torchrun: how far each layout is from one rank.

python -m torch.distributed.run --nproc-per-node 4 -m tests.objective.sequence_worker FILE
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from datetime import timedelta
from itertools import product
from pathlib import Path

import torch
import torch.distributed as dist

from benchmarks.synthetic import shard_of
from eagle3.objective.sequence_parallel.sharding import SequenceSharding
from eagle3.objective.ttt import Objective, TargetParts, ttt_loss
from eagle3.parallel.ranks import Ranks, joined_ranks, sequence_groups
from tests.objective.cases import SWITCHES, pack_of, random_documents, target_parts, tiny_draft

LAYOUTS = [(1, 1), (2, 1), (1, 2), (2, 2), (4, 1), (1, 4)]
TYPES = {"float64": torch.float64, "float32": torch.float32}
VARIANTS = [  # type, back end, recompute, switches of the draft, rows
    ("float64", "usp", False, "plain", "reachable"),
    ("float64", "auto", False, "all", "reachable"),
    ("float64", "usp", True, "all", "supervised"),
    ("float32", "usp", False, "plain", "reachable"),
    ("float32", "flash", False, "plain", "reachable"),
    ("float64", "usp", False, "all of two layers", "reachable"),
    ("float64", "auto", True, "window of two layers", "supervised"),
]
STEPS = 5
PATIENCE = timedelta(minutes=7)


def masks(seed, *lengths):
    generator = torch.Generator().manual_seed(seed)
    return [(torch.rand(n, generator=generator) < 0.8).int().tolist() for n in lengths]


PACKS = {
    "odd lengths": masks(1, 37, 61, 5),
    "one document": [[0] * 20 + [1] * 83],
    "fewer rows than ranks": [[0, 0, 1, 1, 1], [0, 1, 0]],
    "one row": [[0, 0, 0, 1, 1]],
    "none": [[0, 1, 0, 1]],
}


def built(name, dtype, switches):
    generator = torch.Generator().manual_seed(len(name))
    draft = tiny_draft(**SWITCHES[switches])
    documents = random_documents(generator, PACKS[name], len(draft.config.aux_layers))
    head, target = target_parts(generator)
    pack = pack_of(documents, head)
    if dtype == torch.float32:
        states = {n: getattr(pack, n).float() for n in ("aux", "last", "teacher_lse")}
        pack = replace(pack, **states)
        target = TargetParts(
            target.embedding.float(), target.head.to("cpu", dtype), target.draft_ids
        )
    return pack, target, draft.to(dtype)


def outcome(draft, pack, target, objective, group=None):
    """Loss, totals and gradients; over the ranks of a group their sums."""
    draft.zero_grad()
    loss, totals = ttt_loss(draft, pack, target, objective)
    if loss.requires_grad:
        loss.backward()
    result = {
        n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in draft.named_parameters()
    }
    result |= {"loss": loss.detach().double(), "totals": totals.stacked()}
    for name in sorted(result) if group else []:
        dist.all_reduce(result[name], group=group)
    return {name: value.clone() for name, value in result.items()}


def difference(one, other):
    """The largest relative difference of any tensor, by its norm."""
    return max(
        float((one[name] - other[name]).norm() / other[name].norm().clamp_min(1e-12))
        for name in one
    )


def main():
    result = {}
    with joined_ranks("cpu") as alone:
        for ulysses, ring in LAYOUTS:
            groups = sequence_groups(alone.rank, alone.world, ulysses, ring, PATIENCE)
            for handle in (group.handle for group in groups if group.handle is not None):
                assert handle._get_backend(alone.device).options._timeout == PATIENCE
            ranks = Ranks(alone.rank, alone.world, alone.device, *groups)
            for name, variant in product(PACKS, VARIANTS):
                type_name, backend, recompute, switches, active_rows = variant
                dtype = TYPES[type_name]
                pack, target, draft = built(name, dtype, switches)
                objective = Objective(
                    steps=STEPS,
                    dtype=dtype,
                    attention=backend,
                    recompute=recompute,
                    active_rows=active_rows,
                )
                plain = replace(objective, attention="reference", recompute=False)
                expected = outcome(draft, pack, target, plain)
                part = shard_of(pack, SequenceSharding(ranks, STEPS))
                got = outcome(draft, part, target, objective, ranks.sequence.handle)
                key = f"{ulysses}x{ring} {type_name} {backend}{' recomputed' * recompute}: {name}"
                key += f", {switches}"
                result[key] = difference(got, expected)
        of_ranks = [None] * alone.world
        dist.all_gather_object(of_ranks, result)
        if alone.first:
            worst = {key: max(each[key] for each in of_ranks) for key in result}
            Path(sys.argv[1]).write_text(json.dumps(worst))


if __name__ == "__main__":
    main()
