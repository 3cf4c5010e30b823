"""What each saving of the training step is worth on the published model, in CPU minutes of its run.

    python -m benchmarks.real.savings --run results/real/draft/results/smollm2

Forward and backward pass of some packs of the run, with one saving switched off at a time
(benchmarks/savings.py; the loss stays the same). The variants take turns in one process at one
thread, and the fastest round of each counts. Minutes are those of all epochs; the optimiser's are
left out, because they are the same everywhere.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.real.defaults import Bench, one_thread
from benchmarks.savings import SAVINGS
from benchmarks.tables import parser, show
from eagle3.objective.pack import Pack
from eagle3.objective.ttt import Objective, ttt_loss
from eagle3.target_model.config import load_config
from eagle3.target_model.reader import Head, read_head
from eagle3.target_model.weights import TargetWeights
from eagle3.training.stage import StageTrainer, objective_of

NOTHING = "(nothing)"
OTHERS: dict[str, dict[str, Any]] = {
    "chunked attention: dense scores": {"attention": "reference"},
    "chunked attention: PyTorch's flash kernel": {"attention": "flash"},
    "keeping what the backward pass needs (`recompute`)": {"recompute": True},
}
VARIANTS = (NOTHING, *SAVINGS, *OTHERS)


def switched_off(name: str, pack: Pack, head: Head) -> AbstractContextManager[None]:
    return SAVINGS[name](pack, head) if name in SAVINGS else nullcontext()


def times(
    trainer: StageTrainer, packs: list[Pack], head: Head, rounds: int
) -> dict[str, tuple[float, float]]:
    """CPU seconds of all packs and their loss, by variant."""
    objective = objective_of(trainer.train)
    best: dict[str, tuple[float, float]] = {}
    for _ in range(rounds):
        for name in VARIANTS:
            changed = replace(objective, **OTHERS.get(name, {}))
            begun, loss = time.process_time(), 0.0
            for pack in packs:
                with switched_off(name, pack, head):
                    loss += passes(trainer, pack, changed)
            spent = time.process_time() - begun
            best[name] = min(best.get(name, (spent, loss)), (spent, loss))
    return best


def passes(trainer: StageTrainer, pack: Pack, objective: Objective) -> float:
    """Forward and backward pass of one pack; the loss of a row."""
    trainer.draft.zero_grad()
    loss, totals = ttt_loss(trainer.draft, pack, trainer.target, objective)
    loss.backward()
    return loss.item() / max(float(totals.trained[0]), 1.0)


def first_packs(trainer: StageTrainer, count: int) -> Iterator[Pack]:
    every = (numbers for step in trainer.steps for numbers in step.packs)
    for _, numbers in zip(range(count), every, strict=False):
        yield trainer.data.pack(numbers)


def main() -> None:
    args = parser(__doc__)
    args.add_argument("--run", type=Path, required=True, help="results of the pipeline's run")
    args.add_argument("--packs", type=int, default=8, help="how many of the first")
    args.add_argument("--rounds", type=int, default=3)
    given = args.parse_args()
    one_thread()
    bench = Bench(given.run, {}, held_out=1, draft_tokens=1)
    train, target = bench.run.config.train, bench.run.config.target
    head = read_head(
        TargetWeights(bench.target),
        load_config(bench.target),
        target.lm_head_key,
        target.embedding_key,
    )
    trainer = bench.trainer({}, 0, max(given.packs // train.packs_per_batch, 1))
    packs = list(first_packs(trainer, given.packs))
    tokens = int(trainer.data.documents.lengths.sum()) * train.epochs  # the trainer has less
    share = tokens / sum(len(pack.input_ids) for pack in packs) / 60
    spent = times(trainer, packs, head, given.rounds)
    with_all = spent[NOTHING]
    rows = [
        {
            "switched off": name,
            "CPU minutes of the run": seconds * share,
            "more": (seconds - with_all[0]) * share,
            "times as long": seconds / with_all[0],
            "loss differs": abs(loss / with_all[1] - 1),
        }
        for name, (seconds, loss) in spent.items()
    ]
    show("savings on the published model", rows, given, tokens=tokens, epochs=train.epochs)


if __name__ == "__main__":
    main()
