"""Train one stage: some epochs, from the checkpoint before to the next one."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import torch

from eagle3.artifact import REMAKE, Settings, part_of, read_json
from eagle3.config.train import Train, TrainJobs
from eagle3.errors import UserError
from eagle3.ranks import joined_ranks
from eagle3.target.files import resolve_target
from eagle3.tensorfile import content_sha256
from eagle3.tokens.schedule import KIND as SCHEDULE
from eagle3.tokens.vocab import read_mapping
from eagle3.training.checkpoint import ResumeFolder
from eagle3.training.early_stop import SCORE, carry_on, is_exhausted
from eagle3.training.job import run_stage
from eagle3.training.loader import TrainingData
from eagle3.training.memory import keep_freed_memory
from eagle3.training.setup import build_draft
from eagle3.training.stage import StageTrainer
from eagle3.training.tracker import tracking
from workflow_scripts import entry


def main() -> None:
    args = entry.parser(__doc__)
    args.add_argument("--code", required=True, help="digest of the sources, from the rule")
    args.add_argument("--stage", type=int, required=True)
    args.add_argument("--tokens", action=entry.Files, nargs="+", required=True)
    args.add_argument("--hidden-states", action=entry.Files, nargs="+", required=True)
    args.add_argument("--vocab", type=Path, required=True)
    args.add_argument("--schedule", type=Path, required=True)
    args.add_argument("--previous", type=Path, nargs="*", help="files of the checkpoint before")
    args.add_argument("--scores", action=entry.Files, nargs="*", help="of the stages before")
    args.add_argument("--target", required=True)
    args.add_argument("--warm-start", type=Path, help="folder of a draft to start from")
    args.add_argument("--device", required=True)
    args.add_argument("--threads", type=int, required=True)
    args.add_argument("--save-interval", type=int, required=True)
    args.add_argument("--recompute", action="store_true", help="keep less, compute more")
    args.add_argument("--data-parallel", choices=["ddp", "fsdp2"], default="ddp")
    args.add_argument("--sp-ulysses-size", type=int, default=1, help="ranks that share heads")
    args.add_argument("--sp-ring-size", type=int, default=1, help="ranks that pass on keys")
    args.add_argument("--tracker", choices=["none", "tensorboard", "wandb"], default="none")
    args.add_argument("--tracking", type=Path, help="folder for the tracker's files")
    args.add_argument("--resume", type=Path, required=True, help="folder of saves in a stage")
    args.add_argument("--metrics", type=Path, required=True)
    args.add_argument("--out", type=Path, nargs="+", required=True, help="checkpoint's files")
    given = args.parse_args()
    values, upstream = given.settings.values, given.settings.upstream
    if given.scores and is_exhausted(*judged(given.scores, given.settings)):
        if int(os.environ.get("RANK", "0")) == 0:
            logging.info("no training: held-out acceptance has not risen for long enough")
            above, out = given.previous[0].parent, given.out[0].parent
            carry_on(above, given.stage, given.settings, given.code, given.metrics, out)
        return
    keep_freed_memory()
    with joined_ranks(given.device, given.sp_ulysses_size, given.sp_ring_size) as ranks:
        torch.set_num_threads(max(given.threads // ranks.world, 1))
        if not ranks.first:
            logging.disable(logging.INFO)
        data = TrainingData(
            given.tokens, given.hidden_states, upstream["tokens"], upstream["hidden_states"]
        )
        mapping, vocab = read_mapping(given.vocab, upstream["vocab"])
        schedule, _ = read_json(given.schedule, SCHEDULE, upstream["schedule"])
        directory = resolve_target(given.target, values["target"]["revision"])
        existing = None if given.previous else given.warm_start
        draft, target = build_draft(directory, values, mapping, ranks.device, existing)
        inputs = data.inputs() | {
            "vocab": vocab.content_sha256,
            "code": given.code,  # a save of other code is no save of this stage
            "embedding": content_sha256({"embedding": target.embedding.cpu()}),
        }
        settings = Train.from_settings(values["train"])
        jobs = TrainJobs(recompute=given.recompute, data_parallel=given.data_parallel)
        trainer = StageTrainer(draft, target, data, settings, schedule, given.stage, ranks, jobs)
        trainer.stop.listen()
        with tracking(given.tracker if ranks.first else "none", given.tracking) as trainer.track:
            run_stage(
                trainer,
                ResumeFolder(given.resume, given.settings, inputs),
                given.previous[0].parent if given.previous else None,
                given.save_interval,
                given.metrics,
                given.out[0].parent,
            )


def judged(scores: Sequence[Path], settings: Settings) -> tuple[list[float], int]:
    """Acceptance lengths of the stages before, and the patience that is left for the next one.

    Raises UserError if a score is of another training.
    """
    lengths = []
    for path in scores:
        figures, manifest = read_json(path, SCORE, part=part_of(path))
        if manifest.settings["upstream"]["train"] != settings.digest:
            raise UserError(f"{path}: scores a checkpoint of other settings: {REMAKE}")
        lengths.append(figures["acceptance_length"])
    return lengths, settings.values["train"]["early_stop_patience"]


entry.run(main)
