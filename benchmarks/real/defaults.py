"""Which defaults win on the published model: drafts alike but for one factor, at equal CPU time.

    python -m benchmarks.real.defaults --run results/real/draft/results/smollm2 \\
        --factors schedule depth decay rate vocabulary --cpu-seconds 1200 --seeds 0 1 2 \\
        --record factors.jsonl
    python -m benchmarks.real.defaults … --states nf4=other/results/smollm2 --factors states

Every draft is trained in this process, on one thread, and scored on the held-out states of the run
(docs/evaluation.md). A variant has as many optimiser steps as fit into the CPU seconds at its own
cost of a step, which is measured first; its learning rate falls to the end of them. Drafts of a
seed see the same batches in the same order. Each cost and each score is a line of the record, and a
later call goes on from there. Variants of `states` are other runs on the same conversations:
another codec, or the answers of the sources instead of the target's own.
"""

from __future__ import annotations

import json
import statistics
import time
from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from benchmarks.recipes import ALONE, STUDENT
from benchmarks.tables import parser, show
from eagle3.config.train import Train
from eagle3.evaluation.held_out import simulate
from eagle3.files.artifact import Settings
from eagle3.parallel.device import keep_freed_memory
from eagle3.run import load_run
from eagle3.target_model.config import load_config, stop_ids
from eagle3.tokens import vocab
from eagle3.tokens.packing import pack_documents
from eagle3.tokens.schedule import Documents, build_schedule
from eagle3.tokens.stages import Stages
from eagle3.training.checkpoint import ResumeFolder
from eagle3.training.loader import TrainingData
from eagle3.training.setup import build_draft
from eagle3.training.stage import StageTrainer

DEFAULT = "default"
TRIAL = 4  # steps after the first, whose cost counts
Variant = dict[str, dict[str, Any]]
# by factor: names of variants, and what each changes
FACTORS: dict[str, dict[str, Variant]] = {
    "schedule": {
        "cosine": {"train": {"lr_schedule": "cosine"}},
        "wsd": {"train": {"lr_schedule": "wsd"}},
    },
    "norms": {
        "EAGLE-3": {"draft": {"fc_norm": False, "norm_output": False}},
        "EAGLE-3.1": {"draft": {"fc_norm": True, "norm_output": True}},
    },
    "depth": {f"{n} steps": {"train": {"ttt_steps": n}} for n in (2, 4, 7)},
    "decay": {f"decay {d}": {"train": {"step_decay": d}} for d in (0.6, 0.8, 1.0)},
    "rate": {f"rate x {x:g}": {"rate": {"times": x}} for x in (0.3, 1.0, 3.0)},
    "head": {
        f"head {name}": {"train": {"head_init": name}} for name in ("target", "random", "frozen")
    },
    "vocabulary": {
        f"vocabulary {n}": {"vocab": {"draft_vocab_size": n}} for n in (4096, 8192, 16384, 32768)
    },
    "loss": {f"loss {n}": {"train": {"loss": n}} for n in ("soft_ce", "lk_hybrid", "kl")},
    "optimizer": {f"{name}": {"train": {"optimizer": name}} for name in ("adamw", "muon")},
    "precision": {n: {"train": {"precision": n}} for n in ("float32", "bfloat16")},
    "batch": {f"{n} packs": {"train": {"packs_per_batch": n}} for n in (1, 2, 4)},
    "data": {f"data / {n}": {"data": {"divisor": n}} for n in (4, 2, 1)},
    "states": {},
}


class Bench:
    """A run on the published model, opened once: its tokens, states and target."""

    def __init__(self, folder: Path, others: Mapping[str, Path], held_out: int) -> None:
        """`others`: runs on the same conversations with other states, by name."""
        self.folder, self.others = folder, others
        self.run = load_run(folder)
        self.config = self.run.config.to_dict()
        self.target = Path(self.run.target)
        text = load_config(self.target)
        self.vocab_size, self.stop = text.vocab_size, set(stop_ids(self.target, text))
        self.depth = self.config["evaluation"]["num_draft_tokens"]
        held = opened(folder, "eval", self.run.held_out)
        lengths = held.documents.lengths.copy()
        lengths[np.flatnonzero(lengths)[held_out:]] = 0  # takes no part
        packed = pack_documents(lengths, self.config["train"]["pack_tokens"], seed=0, epoch=0)
        self.packs = [held.pack(numbers) for numbers in packed]
        self.documents = int((lengths > 0).sum())

    def trainer(self, variant: Variant, seed: int, steps: int) -> StageTrainer:
        """A trainer of a variant whose training has so many steps."""
        values = deepcopy(self.config)
        for section in ("train", "draft", "vocab"):
            values[section] |= variant.get(section, {})
        values["train"]["learning_rate"] *= variant.get("rate", {}).get("times", 1.0)
        shards = len(self.run.shards) // variant.get("data", {}).get("divisor", 1)
        folder = self.others.get(variant.get("states", {}).get("name", ""), self.folder)
        data = opened(folder, "train", range(max(shards, 1)))
        documents = Documents.of(pair.tokens for pair in data.pairs)
        train = Train.model_validate(values["train"] | {"seed": seed})
        schedule = _schedule(documents, train, len(data.pairs), steps)
        draft, parts = build_draft(self.target, values, self._mapping(values, data), ALONE.device)
        epochs = len(schedule["stages"][0]["epochs"])
        train = Train.model_validate(
            values["train"] | {"seed": seed, "epochs": epochs, "epochs_per_stage": epochs}
        )
        trainer = StageTrainer(draft, parts, data, train, schedule, 1, ALONE)
        # the rate falls to the end of these steps, wherever in an epoch that is
        trainer.steps, trainer.total_steps = trainer.steps[:steps], steps
        return trainer

    def _mapping(self, values: dict[str, Any], data: TrainingData) -> vocab.VocabMapping:
        """The draft's vocabulary, from the tokens that are trained on."""
        tokens = ((pair.tokens.input_ids, pair.tokens.loss_mask) for pair in data.pairs)
        counts = vocab.count_supervised(tokens, self.vocab_size)
        return vocab.build_mapping(counts, values["vocab"]["draft_vocab_size"], self.stop)

    def cost(self, variant: Variant) -> float:
        """CPU seconds of a step of a variant."""
        warm = _trained(self.trainer(variant, 0, 1))
        return max(_trained(self.trainer(variant, 0, 1 + TRIAL)) - warm, 1e-3) / TRIAL

    def score(self, variant: Variant, seed: int, steps: int) -> dict[str, Any]:
        """Train a draft of so many steps, and score it."""
        trainer = self.trainer(variant, seed, steps)
        spent = _trained(trainer)
        figures = simulate(
            trainer.draft.eval(), trainer.target, self.packs, torch.float32, self.depth, self.stop
        )
        return {
            "acceptance_length": figures["acceptance_length"],
            "per_position_acceptance": figures["per_position_acceptance"],
            "rows": figures["rows"],
            "cpu_seconds": round(spent, 2),
        }


def opened(results: Path, split: str, shards: Iterable[int]) -> TrainingData:
    """Tokens and states of some shards of a run."""
    names = [f"{split}/shard-{number:05d}.safetensors" for number in shards]
    tokens, states = results / "tokens", results / "hidden_states"
    return TrainingData([tokens / n for n in names], [states / n for n in names])


def _schedule(documents: Documents, train: Train, shards: int, steps: int) -> dict[str, Any]:
    """A schedule of one stage with at least so many steps."""
    epochs = 1
    while True:
        long = Train.model_validate(
            train.model_dump() | {"epochs": epochs, "epochs_per_stage": epochs}
        )
        schedule = build_schedule(documents, long, Stages(shards, shards, epochs, epochs))
        if schedule["total_steps"] >= steps:
            return schedule
        epochs = max(epochs + 1, -(-steps * epochs // schedule["total_steps"]))


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


class Record:
    """Costs and scores, one a line, of one budget."""

    def __init__(self, path: Path | None, budget: float) -> None:
        self.path, self.budget = path, budget
        self.lines: list[dict[str, Any]] = []
        if path is not None and path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    entry = json.loads(line)
                except ValueError:  # a kill has cut it short
                    continue
                if entry["budget"] == budget:
                    self.lines.append(entry)
            if not path.read_bytes().endswith(b"\n"):
                path.write_text(path.read_text(encoding="utf-8") + "\n", encoding="utf-8")

    def known(self, kind: str, name: str, seed: int | None = None) -> dict[str, Any] | None:
        wanted = (kind, name, seed)
        entries = (e for e in self.lines if (e["kind"], e["name"], e.get("seed")) == wanted)
        return next(entries, None)

    def add(self, entry: dict[str, Any]) -> dict[str, Any]:
        entry = {"budget": self.budget, **entry}
        self.lines.append(entry)
        if self.path is not None:
            with open(self.path, "a", encoding="utf-8") as out:
                out.write(json.dumps(entry) + "\n")
        return entry


def measure(bench: Bench, todo: list[tuple[str, str, Variant]], given: Namespace) -> Record:
    """Train and score what the record lacks, seed by seed."""
    record = Record(given.record, given.cpu_seconds)
    for _, name, changes in todo:
        if not record.known("cost", name):
            record.add({"kind": "cost", "name": name, "cpu_seconds": bench.cost(changes)})
    for seed in given.seeds:
        for factor, name, changes in todo:
            if record.known("score", name, seed):
                continue
            cost = record.known("cost", name)
            steps = max(round(given.cpu_seconds / cost["cpu_seconds"]), 1) if cost else 1
            score = bench.score(changes, seed, steps)
            entry = {"kind": "score", "factor": factor, "name": name, "seed": seed, "steps": steps}
            record.add({**entry, **score})
            print(f"{name} seed {seed}: {score['acceptance_length']:.4f} in {steps}", flush=True)
    return record


def table(record: Record, todo: Iterable[tuple[str, str, Variant]]) -> list[dict[str, Any]]:
    """Means over seeds, and differences to the default seed by seed with their interval."""
    scores = [entry for entry in record.lines if entry["kind"] == "score"]
    base = {e["seed"]: e["acceptance_length"] for e in scores if e["name"] == DEFAULT}
    rows = []
    for factor, name, _ in todo:
        own = {e["seed"]: e for e in scores if e["name"] == name}
        changes = [own[seed]["acceptance_length"] - base[seed] for seed in sorted(own)]
        spread = statistics.stdev(changes) if len(changes) > 1 else float("nan")
        half = STUDENT.get(len(changes) - 1, float("nan")) * spread / len(changes) ** 0.5
        rows.append(
            {
                "factor": factor,
                "variant": name,
                "acceptance length": statistics.mean(e["acceptance_length"] for e in own.values()),
                "difference": statistics.mean(changes),
                "95 % +-": half,
                "steps": statistics.mean(e["steps"] for e in own.values()),
                "CPU s": statistics.mean(e["cpu_seconds"] for e in own.values()),
            }
        )
    return rows


def main() -> None:
    args = parser(__doc__)
    args.add_argument("--run", type=Path, required=True, help="results of the pipeline's run")
    args.add_argument("--factors", nargs="+", choices=FACTORS, default=list(FACTORS))
    args.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args.add_argument("--cpu-seconds", type=float, required=True, help="of each training")
    args.add_argument("--held-out", type=int, default=64, help="documents to score on, at most")
    args.add_argument("--states", nargs="*", default=[], metavar="NAME=RESULTS")
    args.add_argument("--record", type=Path, help="costs and scores, one a line")
    given = args.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    others = {name: Path(place) for name, _, place in (s.partition("=") for s in given.states)}
    bench = Bench(given.run, others, given.held_out)
    todo = list(variants(given.factors, others))
    record = measure(bench, todo, given)
    rows = table(record, todo)
    show("defaults by factor", rows, given, documents=bench.documents, scores=record.lines)


if __name__ == "__main__":
    main()
