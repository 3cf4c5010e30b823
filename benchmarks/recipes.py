"""What each switch of the recipe does to acceptance: drafts trained alike but for one of them.

    snakemake --cores all results/demo/hidden_states/{train,eval}/shard-00000.safetensors \\
        results/demo/vocab/mapping.safetensors
    python -m benchmarks.recipes --results results/demo --seeds 0 1 2

Every draft is trained in this process on the states of a run and scored on held-out ones
(`evaluation/held_out.py`: rows at which the text is the target's own choice). Drafts of one seed
see the same batches, and start with the same weights where the recipe lets them, so a recipe is
compared with `default` seed by seed; the interval is Student's over the seeds' differences.
`--record` keeps each score as it comes, and a later call goes on from there.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterable
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import yaml

from benchmarks.tables import parser, show
from eagle3.config.configuration import Config
from eagle3.config.train import Train
from eagle3.draft.model import Eagle3Draft
from eagle3.evaluation.held_out import simulate
from eagle3.files.artifact import Settings
from eagle3.objective.ttt import TargetParts
from eagle3.parallel.device import keep_freed_memory
from eagle3.parallel.ranks import Ranks
from eagle3.target_model.config import load_config, stop_ids
from eagle3.tokens.packing import pack_documents
from eagle3.tokens.schedule import Documents, build_schedule
from eagle3.tokens.stages import Stages
from eagle3.tokens.vocab import read_mapping
from eagle3.training.checkpoint import ResumeFolder
from eagle3.training.data import TrainingData
from eagle3.training.job import run_stage
from eagle3.training.setup import build_draft
from eagle3.training.stage import StageTrainer

ROOT = Path(__file__).resolve().parents[1]
ALONE = Ranks(0, 1, torch.device("cpu"))
DEFAULT = "default"
WARM = "warm start"  # from a draft that was trained on other states, those of --warm-shard
# two-sided 95 % of Student's t by degrees of freedom
STUDENT = {1: 12.71, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365}
RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    DEFAULT: {},
    "fc_norm + norm_output (EAGLE-3.1)": {"draft": {"fc_norm": True, "norm_output": True}},
    "fc_norm": {"draft": {"fc_norm": True}},
    "norm_output": {"draft": {"norm_output": True}},
    "qk_norm": {"draft": {"qk_norm": True}},
    "muon": {"train": {"optimizer": "muon"}},
    "lk_hybrid": {"train": {"loss": "lk_hybrid"}},
    "lk_alpha": {"train": {"loss": "lk_alpha"}},
    "tv": {"train": {"loss": "tv"}},
    "reverse_kl": {"train": {"loss": "reverse_kl"}},
    "head random": {"train": {"head_init": "random"}},
    "head frozen": {"train": {"head_init": "frozen"}},
    "head and norm frozen": {"train": {"head_init": "frozen", "norm_init": "frozen"}},
    "norm ones": {"train": {"norm_init": "ones"}},
    "all supervised rows": {"train": {"active_rows": "supervised"}},
    "noise 0.1": {"train": {"feature_noise": 0.1}},
    "noise 0.3": {"train": {"feature_noise": 0.3}},
    "decay 1.0": {"train": {"step_decay": 1.0}},
    "decay 0.6": {"train": {"step_decay": 0.6}},
    "4 steps": {"train": {"ttt_steps": 4}},
    "1 step": {"train": {"ttt_steps": 1}},
    "wsd": {"train": {"lr_schedule": "wsd"}},
    "cosine": {"train": {"lr_schedule": "cosine"}},
    "constant": {"train": {"lr_schedule": "constant"}},
    "clip 0.1": {"train": {"max_grad_norm": 0.1}},
    "clip 0.25": {"train": {"max_grad_norm": 0.25}},
    "clip 0.5": {"train": {"max_grad_norm": 0.5}},
    "clip 1": {"train": {"max_grad_norm": 1.0}},
    "clip 4": {"train": {"max_grad_norm": 4.0}},
    "wsd, clip 0.25": {"train": {"lr_schedule": "wsd", "max_grad_norm": 0.25}},
    "EAGLE-3.1, wsd": {
        "draft": {"fc_norm": True, "norm_output": True},
        "train": {"lr_schedule": "wsd"},
    },
    "EAGLE-3.1, wsd, clip 0.25": {
        "draft": {"fc_norm": True, "norm_output": True},
        "train": {"lr_schedule": "wsd", "max_grad_norm": 0.25},
    },
}


def opened(results: Path, split: str, shards: Iterable[int]) -> TrainingData:
    """Tokens and states of some shards of a run."""
    names = [f"{split}/shard-{number:05d}.safetensors" for number in shards]
    tokens, states = results / "tokens", results / "hidden_states"
    return TrainingData([tokens / n for n in names], [states / n for n in names])


class Bench:
    """States, tokens and target of a run, opened once."""

    def __init__(self, given: Any) -> None:
        self.config = Config.of(_merged(given.configfile)).to_dict()
        self.target = given.target or given.results / "target"
        self.mapping, _ = read_mapping(given.results / "vocab" / "mapping.safetensors")
        self.stop = set(stop_ids(self.target, load_config(self.target)))
        self.depth = self.config["evaluation"]["num_speculative_tokens"]
        self.data = opened(given.results, "train", range(given.shards))
        self.others = opened(given.results, "train", given.warm_shard)
        held_out = opened(given.results, "eval", range(1))
        lengths = held_out.documents.lengths.copy()
        lengths[np.flatnonzero(lengths)[given.held_out :]] = 0  # takes no part
        size = self.config["train"]["pack_tokens"]
        packed = pack_documents(lengths, size, seed=0, epoch=0)
        self.packs = [held_out.pack(numbers) for numbers in packed]
        self.documents = int((lengths > 0).sum())

    def score(self, recipe: str, seed: int, epochs: int) -> dict[str, Any]:
        """Train a draft and score it."""
        values = deepcopy(self.config)
        for section, changes in RECIPES.get(recipe, {}).items():
            values[section] |= changes
        values["train"] |= {"seed": seed, "epochs": epochs, "epochs_per_stage": epochs}
        draft, parts = build_draft(self.target, values, self.mapping, ALONE.device)
        if recipe == WARM:  # of the same vocabulary, so all weights are taken over
            existing, _ = build_draft(self.target, values, self.mapping, ALONE.device)
            self._train(existing, parts, values["train"], self.others)
            draft.load_state_dict(existing.state_dict())
        began = time.process_time()
        steps = self._train(draft, parts, values["train"], self.data)
        spent = time.process_time() - began
        result = simulate(draft.eval(), parts, self.packs, torch.float32, self.depth, self.stop)
        return {
            "recipe": recipe,
            "seed": seed,
            "acceptance_length": result["acceptance_length"],
            "per_position_acceptance": result["per_position_acceptance"],
            "steps": steps,
            "rows": result["rows"],
            "cpu_seconds": spent,
        }

    @staticmethod
    def _train(
        draft: Eagle3Draft, parts: TargetParts, values: dict[str, Any], data: TrainingData
    ) -> int:
        """All of a training in one stage; its steps."""
        train = Train.model_validate(values)
        epochs, shards = train.epochs, len(data.shards)
        documents = Documents.of(shard.tokens for shard in data.shards)
        stages = Stages(shards, shards, epochs, epochs)
        schedule = build_schedule(documents, train, stages)
        trainer = StageTrainer(draft, parts, data, train, schedule, 1, ALONE)
        with TemporaryDirectory() as folder:
            resume = ResumeFolder(Path(folder) / "resume", Settings("bench", {}, {}), {})
            metrics = Path(folder) / "metrics.jsonl"
            run_stage(trainer, resume, None, 10**9, metrics, Path(folder) / "out")
        steps: int = schedule["total_steps"]
        return steps


def main() -> None:
    args = parser(__doc__)
    args.add_argument("--results", type=Path, required=True, help="folder of a run with states")
    args.add_argument("--configfile", type=Path, help="overlay of the run")
    args.add_argument("--target", type=Path, help="the run's target; none: the embedded one")
    args.add_argument("--shards", type=int, default=1, help="of training")
    args.add_argument("--held-out", type=int, default=64, help="documents to score on, at most")
    args.add_argument("--epochs", type=int, default=2)
    args.add_argument("--recipes", nargs="*", default=list(RECIPES), choices=list(RECIPES))
    args.add_argument("--warm-shard", type=int, nargs="*", default=[], help=f"{WARM} too")
    args.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2))
    args.add_argument("--record", type=Path, help="scores, one a line; those there are kept")
    given = args.parse_args()
    if given.warm_shard:
        given.recipes.append(WARM)
    keep_freed_memory()
    torch.set_num_threads(1)
    bench = Bench(given)
    result = _recorded(given.record)
    for seed in given.seeds:  # so that every recipe has a first figure early
        for recipe in dict.fromkeys([DEFAULT, *given.recipes]):
            if (recipe, seed) in result:
                continue
            result[recipe, seed] = score = bench.score(recipe, seed, given.epochs)
            print(f"{recipe} seed {seed}: {score['acceptance_length']:.4f}", flush=True)
            if given.record:
                with open(given.record, "a", encoding="utf-8") as out:
                    out.write(json.dumps(score) + "\n")
    rows = [_row(recipe, result) for recipe in given.recipes]
    scores = [*result.values()]
    show("acceptance by recipe", rows, given, documents=bench.documents, scores=scores)


def _row(recipe: str, found: dict[tuple[str, int], dict[str, Any]]) -> dict[str, Any]:
    """A line of the table: means over seeds, and the difference to `default` with its interval."""
    key = "acceptance_length"
    own = {seed: score for (name, seed), score in found.items() if name == recipe}
    changes = [score[key] - found[DEFAULT, seed][key] for seed, score in sorted(own.items())]
    spread = statistics.stdev(changes) if len(changes) > 1 else float("nan")
    half = STUDENT.get(len(changes) - 1, float("nan")) * spread / len(changes) ** 0.5
    return {
        "recipe": recipe,
        "acceptance length": statistics.mean(score[key] for score in own.values()),
        "difference": statistics.mean(changes),
        "95 % +-": half,
        "by seed": " ".join(f"{change:+.3f}" for change in changes),
        "first draft": statistics.mean(s["per_position_acceptance"][0] for s in own.values()),
        "CPU s": statistics.mean(score["cpu_seconds"] for score in own.values()),
    }


def _recorded(path: Path | None) -> dict[tuple[str, int], dict[str, Any]]:
    if path is None or not path.exists():
        return {}
    scores = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {(score["recipe"], score["seed"]): score for score in scores}


def _merged(overlay: Path | None) -> dict[str, Any]:
    """config.yaml under an overlay, section by section, as Snakemake merges them."""
    base = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
    given = yaml.safe_load(overlay.read_text(encoding="utf-8")) if overlay else {}
    for name, value in given.items():
        base[name] = {**base.get(name, {}), **value} if isinstance(value, dict) else value
    return base


if __name__ == "__main__":
    main()
