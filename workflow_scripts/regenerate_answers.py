"""Have the target answer the conversations of one shard itself."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from eagle3.config.dataset import Regenerate
from eagle3.data.openai_engine import OpenAIEngine
from eagle3.data.regeneration import Engine, Record, regenerate, write_answers
from eagle3.data.rows import Dataset, check_enough
from eagle3.target.answers import HFAnswers
from workflow_scripts import entry


def main(job: entry.Job) -> None:
    torch.set_num_threads(job.threads)
    run, paths, settings = job.run, job.run.paths, job.settings("regenerate")
    dataset = Dataset(Path(paths.dataset), job.split, settings.upstream["dataset"])
    if job.split == "train":
        check_enough(len(dataset), run.config.dataset.num_samples)
    size = settings.values["dataset"]["shard_size"]
    rows = dataset.read(job.shard * size, (job.shard + 1) * size)
    sampling = Regenerate.from_settings(settings.values["dataset"]["regenerate"])
    inputs = {"dataset": dataset.manifest.inputs["rows"]}
    identity = f"{settings.digest} {inputs['dataset']} {job.split} {job.shard}"
    resume = Path(paths.resume_answers(job.split, job.shard))
    with Record.opened(resume, identity) as record:
        outcome = regenerate(rows, _engine(job, sampling), sampling.seed, record)
        out = Path(paths.answers(job.split, job.shard))
        report_file = Path(paths.answers_report(job.split, job.shard))
        report = write_answers(out, report_file, outcome, settings, inputs)
        resume.unlink()
    logging.info("%s", {k: v for k, v in report.items() if k != "first_dropped"})


def _engine(job: entry.Job, sampling: Regenerate) -> Engine:
    """Where answers come from."""
    jobs = job.run.config.resources.regenerate
    if sampling.backend == "server":
        return OpenAIEngine(jobs.servers, sampling.model, jobs.concurrency, sampling)
    tokens, target = job.run.config.tokens, job.run.config.target
    renderer = {
        "choice": tokens.chat_template,
        "options": tokens.chat_template_options,
        "system_prompt": tokens.system_prompt,
    }
    return HFAnswers(
        job.target_folder(),
        renderer,
        sampling,
        jobs.batch,
        target.dtype,
        job.run.config.resources.device,
        target.trust_remote_code,
    )


if __name__ == "__main__":
    entry.start(main, __doc__)
