"""Train one stage: some epochs, from one checkpoint to the next."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from eagle3.config.train import Train
from eagle3.draft.weight_files import draft_folder
from eagle3.evaluation.inside_stage import HeldOutScorer
from eagle3.files.artifact import read_json
from eagle3.files.tensor_file import content_sha256
from eagle3.parallel.device import keep_freed_memory
from eagle3.parallel.ranks import joined_ranks
from eagle3.tokens.schedule import KIND as SCHEDULE
from eagle3.tokens.vocab import read_mapping
from eagle3.training.checkpoint import ResumeFolder
from eagle3.training.data import window_data
from eagle3.training.early_stop import carry_on, is_exhausted, lengths_before
from eagle3.training.gpu import check_gpu, explain_out_of_memory, use_deterministic_kernels
from eagle3.training.job import run_stage
from eagle3.training.setup import build_draft
from eagle3.training.stage import StageTrainer
from eagle3.training.tracing import tracing
from eagle3.training.tracker import tracking
from workflow_scripts import entry


def main(job: entry.Job) -> None:
    run, paths, settings = job.run, job.run.paths, job.settings("train")
    jobs, code = run.config.resources.train, run.code["train_stage.py"]
    previous = job.previous[0].parent if job.previous else None
    metrics, out = Path(paths.metrics(job.stage)), job.out[0].parent
    train = Train.from_settings(settings.values["train"])
    lengths = lengths_before(run.scores_before(job.stage), settings.digest)
    if previous and lengths and is_exhausted(lengths, train.early_stop_patience or 0):
        if job.first_rank:
            logging.info("no training: early stop, since held-out acceptance has stopped rising")
            carry_on(previous, job.stage, settings, code, metrics, out)
        return
    keep_freed_memory()
    if train.deterministic:
        use_deterministic_kernels(run.config.resources.device)
    with joined_ranks(
        run.config.resources.device, jobs.sp_ulysses_size, jobs.sp_ring_size
    ) as ranks:
        check_gpu(ranks.device, train.precision)
        torch.set_num_threads(max(job.threads // ranks.world, 1))
        if not ranks.first:
            logging.disable(logging.INFO)
        data = window_data(run, job.stage)
        mapping, vocab = read_mapping(Path(paths.vocab), settings.upstream["vocab"])
        schedule, _ = read_json(Path(paths.schedule), SCHEDULE, settings.upstream["schedule"])
        initial_draft = None if previous else run.external.warm_start
        initial_folder = draft_folder(initial_draft) if initial_draft else None
        draft, target = build_draft(
            job.target_folder(), settings.values, mapping, ranks.device, initial_folder
        )
        inputs = data.inputs() | {
            "vocab": vocab.content_sha256,
            "code": code,  # saves of other code are not resumed
            "embedding": content_sha256({"embedding": target.embedding.cpu()}),
        }
        trainer = StageTrainer(draft, target, data, train, schedule, job.stage, ranks, jobs)
        if run.scores_inside:
            trainer.scorer = HeldOutScorer.of(run, job.target_folder(), trainer)
        trainer.stop.listen()
        tracker = jobs.tracker if ranks.first else "none"
        memory, longest = trainer.step_memory(), run.config.tokens.max_length
        memory_guard = explain_out_of_memory(ranks.device, memory, train, longest)
        track_context = tracking(tracker, Path(paths.tracking), settings.digest)
        trace = Path(paths.trace(job.stage, ranks.rank))
        trace_context = tracing(jobs.profile_after, jobs.profile_steps, trace, ranks.device)
        with memory_guard, track_context as trainer.track, trace_context as trainer.trace:
            resume = ResumeFolder(Path(paths.resume(job.stage)), settings, inputs)
            run_stage(trainer, resume, previous, jobs.save_interval, metrics, out)


if __name__ == "__main__":
    entry.start(main, __doc__)
