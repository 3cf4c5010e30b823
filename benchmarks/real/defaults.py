"""Which defaults win on the states of a run: drafts alike but for one factor.

    python -m benchmarks.real.defaults --run results/real/draft/results/smollm2 \\
        --factors optimizer schedule depth --cpu-seconds 300 --seeds 0 1 2 --jobs 2 \\
        --record factors.jsonl
    python -m benchmarks.real.defaults --run results/demo --epochs 4 --factors norms clip
    python -m benchmarks.real.defaults … --states nf4=other/results/smollm2 --factors states

Every draft is trained on one thread, `--jobs` drafts at a time, and scored on the held-out states
of the run (docs/evaluation.md); with `--prompts`, also by decoding. With `--cpu-seconds` a variant
has as many optimiser steps as fit into them at its own cost of a step, which is measured first;
with `--epochs`, all steps of those. Its learning rate falls to the end of them. Drafts of a seed
see the same batches in the same order. Each cost and each score is a line of the record, and a
later call goes on from there. A variant that the run itself is made with is the default, and is not
trained again. Variants of `states` are other states of the same conversations (`other_states.py`):
another codec, or the answers of the sources instead of the target's own.
"""

from __future__ import annotations

import json
import time
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from copy import deepcopy
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from benchmarks.real.decoded import check_sets, decoded
from benchmarks.real.record import DEFAULT, Record, table
from benchmarks.tables import parser, show
from eagle3.config.train import Train
from eagle3.errors import UserError
from eagle3.evaluation.held_out import simulate
from eagle3.files.artifact import Settings
from eagle3.parallel.device import keep_freed_memory
from eagle3.parallel.ranks import Ranks
from eagle3.run import load_run
from eagle3.target_model.config import load_config, stop_ids
from eagle3.tokens import vocab
from eagle3.tokens.packing import pack_documents
from eagle3.tokens.schedule import Documents, build_schedule
from eagle3.tokens.stages import Stages
from eagle3.training.checkpoint import ResumeFolder
from eagle3.training.data import TrainingData
from eagle3.training.optimizer import muon_ratio
from eagle3.training.setup import build_draft
from eagle3.training.stage import StageTrainer
from workflow_scripts import ending

ALONE = Ranks(0, 1, torch.device("cpu"))
TRIAL = 8  # steps after the first, whose cost counts
# keys of `train` that no step's cost depends on
FREE = {"learning_rate", "muon_learning_rate", "lr_schedule", "step_decay", "max_grad_norm"}
Variant = dict[str, dict[str, Any]]
# of head and norms, and of the matrices
EQUAL = [(rate, rate) for rate in (1e-3, 3e-3, 1e-2)]
MUON_RATES = [(1e-4, 1e-3), (3e-4, 3e-3), (1e-3, 3e-3), (3e-4, 1e-2), *EQUAL]
EAGLE_31: Variant = {"draft": {"fc_norm": True, "norm_output": True}}
CLIPPED_WSD: Variant = {"train": {"lr_schedule": "wsd", "max_grad_norm": 0.25}}
# by factor: names of variants, and what each changes
FACTORS: dict[str, dict[str, Variant]] = {
    "schedule": {
        "cosine": {"train": {"lr_schedule": "cosine"}},
        "wsd": {"train": {"lr_schedule": "wsd"}},
        "constant": {"train": {"lr_schedule": "constant"}},
    },
    "norms": {
        "EAGLE-3": {"draft": {"fc_norm": False, "norm_output": False}},
        "EAGLE-3.1": EAGLE_31,
        "fc_norm alone": {"draft": {"fc_norm": True, "norm_output": False}},
        "norm_output alone": {"draft": {"fc_norm": False, "norm_output": True}},
        "qk_norm": {"draft": {"qk_norm": True}},
        "norm ones": {"train": {"norm_init": "ones"}},
    },
    "depth": {f"{n} steps": {"train": {"ttt_steps": n}} for n in (1, 2, 3, 4, 7)},
    "decay": {f"decay {d}": {"train": {"step_decay": d}} for d in (0.6, 0.8, 1.0)},
    "rate": {f"rate x {x:g}": {"rate": {"times": x}} for x in (0.3, 1.0, 3.0)},
    "head": {
        **{f"head {n}": {"train": {"head_init": n}} for n in ("target", "random", "frozen")},
        "head and norm frozen": {"train": {"head_init": "frozen", "norm_init": "frozen"}},
    },
    "rows": {"all supervised rows": {"train": {"active_rows": "supervised"}}},
    "noise": {f"noise {x:g}": {"train": {"feature_noise": x}} for x in (0.1, 0.3)},
    "clip": {f"clip {x:g}": {"train": {"max_grad_norm": x}} for x in (0.1, 0.25, 0.5, 1.0, 4.0)},
    "together": {
        "wsd, clip 0.25": CLIPPED_WSD,
        "EAGLE-3.1, wsd": EAGLE_31 | {"train": {"lr_schedule": "wsd"}},
        "EAGLE-3.1, wsd, clip 0.25": EAGLE_31 | CLIPPED_WSD,
    },
    "vocabulary": {
        f"vocabulary {n}": {"vocab": {"draft_vocab_size": n}} for n in (4096, 8192, 16384, 32768)
    },
    "loss": {
        f"loss {n}": {"train": {"loss": n}}
        for n in ("soft_ce", "lk_hybrid", "lk_alpha", "tv", "reverse_kl")
    },
    "optimizer": {
        **{
            f"adamw {rate:g}": {"train": {"optimizer": "adamw", "learning_rate": rate}}
            for rate in (1e-4, 3e-4, 1e-3)
        },
        **{
            f"muon {rate:g}, matrices {inside:g}": {
                "train": {"learning_rate": rate, "muon_learning_rate": inside}
            }
            for rate, inside in MUON_RATES
        },
    },
    "precision": {n: {"train": {"precision": n}} for n in ("float32", "bfloat16")},
    "batch": {f"{n} packs": {"train": {"packs_per_batch": n}} for n in (1, 2, 4)},
    "data": {f"data / {n}": {"data": {"divisor": n}} for n in (4, 2, 1)},
    # from a draft that was trained as long before, on the first shards alone
    "warm start": {"warm start": {"warm": {"divisor": 2}}},
    "states": {},
}


class Bench:
    """A run, opened once."""

    def __init__(
        self,
        folder: Path,
        others: Mapping[str, Path],
        held_out: int,
        draft_tokens: int,
        prompts: int = 0,
    ) -> None:
        """`others`: runs on the same conversations with other states, by name; `prompts`: how many
        of each set are decoded."""
        self.given = (folder, tuple(others.items()), held_out, draft_tokens, prompts)
        self.folder, self.others = folder, dict(others)
        self.run = load_run(folder)
        self.config = self.run.config.to_dict()
        train = self.run.config.train
        self.config["train"]["muon_learning_rate"] = muon_ratio(train) * train.learning_rate
        self.target = Path(self.run.target)
        text = load_config(self.target)
        self.vocab_size, self.stop = text.vocab_size, set(stop_ids(self.target, text))
        self.depth, self.prompts = draft_tokens, prompts
        held = opened(folder, "eval", self.run.held_out)
        lengths = held.documents.lengths.copy()
        lengths[np.flatnonzero(lengths)[held_out:]] = 0  # takes no part
        packed = pack_documents(lengths, self.config["train"]["pack_tokens"], seed=0, epoch=0)
        self.packs = [held.pack(numbers) for numbers in packed]
        self.documents = int((lengths > 0).sum())

    def __reduce__(self) -> tuple[Any, ...]:
        return reopened, self.given

    def values(self, variant: Variant) -> dict[str, Any]:
        """The run's configuration with the changes of a variant."""
        values = deepcopy(self.config)
        for section in ("train", "draft", "vocab"):
            values[section] |= variant.get(section, {})
        for key in ("learning_rate", "muon_learning_rate"):
            values["train"][key] *= variant.get("rate", {}).get("times", 1.0)
        return values

    def changed(self, variant: Variant) -> Variant:
        """What of a variant the run itself is not made with."""
        other = {"rate": {"times": 1.0}, "data": {"divisor": 1}, "warm": {}, "states": {}}
        as_it_is = {**self.config, **other}
        own = {
            section: {k: v for k, v in values.items() if as_it_is[section].get(k) != v}
            for section, values in variant.items()
        }
        return {section: values for section, values in own.items() if values}

    def trainer(
        self,
        variant: Variant,
        seed: int,
        steps: int,
        mapping: vocab.VocabMapping | None = None,
        weights: dict[str, Any] | None = None,
    ) -> StageTrainer:
        """A trainer of a variant whose training has so many steps, from some weights."""
        values = self.values(variant)
        data = self.data(variant)
        documents = Documents.of(shard.tokens for shard in data.shards)
        train = Train.model_validate(values["train"] | {"seed": seed})
        schedule = _schedule(documents, train, len(data.shards), steps)
        mapping = mapping or self.mapping(variant)
        draft, parts = build_draft(self.target, values, mapping, ALONE.device)
        if weights:
            draft.load_state_dict(weights)
        epochs = len(schedule["stages"][0]["epochs"])
        train = Train.model_validate(
            values["train"] | {"seed": seed, "epochs": epochs, "epochs_per_stage": epochs}
        )
        trainer = StageTrainer(draft, parts, data, train, schedule, 1, ALONE)
        # the rate falls to the end of these steps, wherever in an epoch that is
        trainer.steps, trainer.total_steps = trainer.steps[:steps], steps
        return trainer

    def data(self, variant: Variant) -> TrainingData:
        """What a variant is trained on."""
        shards = len(self.run.shards) // variant.get("data", {}).get("divisor", 1)
        folder = self.others.get(variant.get("states", {}).get("name", ""), self.folder)
        return opened(folder, "train", range(max(shards, 1)))

    def mapping(self, variant: Variant) -> vocab.VocabMapping:
        """The draft's vocabulary, from the tokens that are trained on."""
        shards = (shard.tokens for shard in self.data(variant).shards)
        tokens = ((shard.input_ids, shard.loss_mask) for shard in shards)
        counts = vocab.count_supervised(tokens, self.vocab_size)
        size = self.values(variant)["vocab"]["draft_vocab_size"]
        return vocab.build_mapping(counts, size, self.stop)

    def steps(self, variant: Variant, epochs: int) -> int:
        """Optimiser steps of so many epochs of a variant."""
        data, train = self.data(variant), Train.model_validate(self.values(variant)["train"])
        documents = Documents.of(shard.tokens for shard in data.shards)
        steps: int = _of_epochs(documents, train, len(data.shards), epochs)["total_steps"]
        return steps

    def cost(self, variant: Variant) -> float:
        """CPU seconds of a step of a variant."""
        warm = _trained(self.trainer(variant, 0, 1))
        return max(_trained(self.trainer(variant, 0, 1 + TRIAL)) - warm, 1e-3) / TRIAL

    def score(self, variant: Variant, seed: int, steps: int) -> dict[str, Any]:
        """Train a draft of so many steps, and score it."""
        weights, mapping = None, self.mapping(variant)
        if warm := variant.get("warm"):
            before = self.trainer({"data": warm}, seed, steps, mapping)
            _trained(before)
            weights = before.draft.state_dict()
        trainer = self.trainer(variant, seed, steps, mapping, weights)
        spent = _trained(trainer)
        figures = simulate(
            trainer.draft.eval(), trainer.target, self.packs, torch.float32, self.depth, self.stop
        )
        score = {
            "acceptance_length": figures["acceptance_length"],
            "per_position_acceptance": figures["per_position_acceptance"],
            "rows": figures["rows"],
            "cpu_seconds": round(spent, 2),
        }
        if self.prompts:
            asked = self.run, trainer.draft, mapping, self.prompts, self.depth
            score["decoded"] = decoded(*asked)
        return score


@cache
def reopened(folder: Path, others: tuple[tuple[str, Path], ...], *sizes: int) -> Bench:
    """The bench of a worker process, opened once."""
    return Bench(folder, dict(others), *sizes)


def _schedule(documents: Documents, train: Train, shards: int, steps: int) -> dict[str, Any]:
    """A schedule of one stage with at least so many steps."""
    epochs = 1
    while True:
        schedule = _of_epochs(documents, train, shards, epochs)
        if schedule["total_steps"] >= steps:
            return schedule
        epochs = max(epochs + 1, -(-steps * epochs // schedule["total_steps"]))


def _of_epochs(documents: Documents, train: Train, shards: int, epochs: int) -> dict[str, Any]:
    """A schedule of one stage of so many epochs."""
    long = Train.model_validate(train.model_dump() | {"epochs": epochs, "epochs_per_stage": epochs})
    return build_schedule(documents, long, Stages(shards, shards, epochs, epochs))


def opened(results: Path, split: str, shards: Iterable[int]) -> TrainingData:
    """Tokens and states of some shards of a run."""
    names = [f"{split}/shard-{number:05d}.safetensors" for number in shards]
    tokens, states = results / "tokens", results / "hidden_states"
    return TrainingData([tokens / n for n in names], [states / n for n in names])


def _trained(trainer: StageTrainer) -> float:
    """Train to the end of the trainer's steps; the CPU seconds that it took."""
    began = time.process_time()
    with TemporaryDirectory() as folder:
        resume = ResumeFolder(Path(folder) / "resume", Settings("bench", {}, {}), {})
        trainer.run(0, resume, 10**9, Path(folder) / "metrics.jsonl")
    return time.process_time() - began


def variants(factors: Iterable[str], states: Iterable[str]) -> Iterator[tuple[str, str, Variant]]:
    """Factor, name and changes of everything to train, what is compared with first."""
    yield "", DEFAULT, {}
    for factor in factors:
        own = FACTORS[factor]
        if factor == "states":
            own = {f"states {name}": {"states": {"name": name}} for name in states}
        for name, changes in own.items():
            yield factor, name, changes


def that_cost(variant: Variant) -> Variant:
    """What of a variant's changes a step's cost depends on."""
    own = {
        section: {key: value for key, value in values.items() if key not in FREE}
        for section, values in variant.items()
        if section not in {"rate", "data", "warm", "states"}
    }
    return {section: values for section, values in own.items() if values}


def measure(
    bench: Bench,
    todo: list[tuple[str, str, Variant]],
    given: Namespace,
    each: Callable[..., Iterable[Any]] = map,
) -> Record:
    """Train and score what the record lacks, seed by seed; `each` maps like `map`."""
    record = Record(given.record, given.cpu_seconds or f"{given.epochs} epochs")
    if given.cpu_seconds:
        kinds = {json.dumps(kind): kind for kind in (that_cost(changes) for _, _, changes in todo)}
        lacking = [name for name in kinds if not record.known("cost", name)]
        costs = each(bench.cost, [kinds[name] for name in lacking])
        for name, cost in zip(lacking, costs, strict=True):
            record.add({"kind": "cost", "name": name, "cpu_seconds": cost})
    tasks = []
    for seed in given.seeds:
        for factor, name, changes in todo:
            if not record.known("score", name, seed):
                if given.cpu_seconds:
                    cost = record.cost(json.dumps(that_cost(changes)))
                    steps = max(round(given.cpu_seconds / cost), 1)
                else:
                    steps = bench.steps(changes, given.epochs)
                tasks.append((factor, name, changes, seed, steps))
    scores = each(bench.score, *([task[i] for task in tasks] for i in (2, 3, 4)))
    for (factor, name, _, seed, steps), score in zip(tasks, scores, strict=True):
        entry = {"kind": "score", "factor": factor, "name": name, "seed": seed, "steps": steps}
        record.add({**entry, **score})
        print(f"{name} seed {seed}: {score['acceptance_length']:.4f} in {steps}", flush=True)
    return record


def main() -> None:
    args = parser(__doc__)
    args.add_argument("--run", type=Path, required=True, help="results of the pipeline's run")
    args.add_argument("--factors", nargs="+", choices=FACTORS, default=list(FACTORS))
    args.add_argument("--variants", nargs="+", metavar="NAME", help="only these of the factors")
    args.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    budget = args.add_mutually_exclusive_group(required=True)
    budget.add_argument("--cpu-seconds", type=float, help="of each training")
    budget.add_argument("--epochs", type=int, help="of each training")
    args.add_argument("--held-out", type=int, default=64, help="documents to score on, at most")
    args.add_argument(
        "--draft-tokens", type=int, nargs="+", default=[3, 5], help="lengths of a chain to show"
    )
    args.add_argument("--prompts", type=int, default=0, help="of each set, to decode")
    args.add_argument("--states", nargs="*", default=[], metavar="NAME=RESULTS")
    args.add_argument("--record", type=Path, help="costs and scores, one a line")
    args.add_argument("--jobs", type=int, default=1, help="drafts at a time, a thread each")
    given = args.parse_args()
    others = {name: Path(place) for name, _, place in (s.partition("=") for s in given.states)}
    bench = Bench(given.run, others, given.held_out, max(given.draft_tokens), given.prompts)
    if given.prompts:
        check_sets(bench.run)
    named = [(f, name, bench.changed(v)) for f, name, v in variants(given.factors, others)]
    wanted = {DEFAULT, *(given.variants or [name for _, name, _ in named])}
    if unknown := wanted - {name for _, name, _ in named}:
        raise UserError(f"--variants: the factors have no {', '.join(sorted(unknown))}")
    todo = [each for each in named if each[1] in wanted and (each[1] == DEFAULT or each[2])]
    with ProcessPoolExecutor(given.jobs, get_context("spawn"), one_thread) as pool:
        record = measure(bench, todo, given, pool.map)
    rows = [row for length in given.draft_tokens for row in table(record, todo, length)]
    show("defaults by factor", rows, given, documents=bench.documents, scores=record.lines)


def one_thread() -> None:
    """What every worker process is set to."""
    keep_freed_memory()
    torch.set_num_threads(1)


if __name__ == "__main__":
    ending.run(main)
