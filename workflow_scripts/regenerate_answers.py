"""Let the target itself answer the conversations of one shard."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from eagle3.config.dataset import Regenerate
from eagle3.data.answer_record import Generate, Record
from eagle3.data.regeneration import regenerate, write_answers
from eagle3.data.rows import DatasetFile, check_enough
from eagle3.data.templates import Renderer
from eagle3.engines.hf_answers import HFAnswers
from eagle3.engines.openai_answers import OpenAIEngine
from eagle3.target_model.config import load_config, stop_ids
from eagle3.target_model.tokenizer import load_tokenizer
from workflow_scripts import entry


def main(job: entry.Job) -> None:
    torch.set_num_threads(job.threads)
    run, paths, settings = job.run, job.run.paths, job.settings("regenerate")
    dataset = DatasetFile(Path(paths.dataset), job.split, settings.upstream["dataset"])
    if job.split == "train":
        check_enough(len(dataset), run.config.dataset.num_samples)
    size = run.config.dataset.rows_of_shard(job.split)
    rows = dataset.read(job.shard * size, (job.shard + 1) * size)
    sampling = Regenerate.from_settings(settings.values["dataset"]["regenerate"])
    inputs = {"dataset": dataset.manifest.inputs["rows"]}
    identity = f"{settings.digest} {inputs['dataset']} {job.split} {job.shard}"
    resume = Path(paths.resume_answers(job.split, job.shard))
    directory = job.target_folder(weights=sampling.backend != "server")
    engine, renderer = _engine(job, directory, sampling), _renderer(job, directory)
    with Record.opened(resume, identity) as record:
        outcome = regenerate(rows, engine, sampling.seed, record, renderer.render)
        out = Path(paths.answers(job.split, job.shard))
        report_file = Path(paths.answers_report(job.split, job.shard))
        report = write_answers(out, report_file, outcome, settings, inputs)
        resume.unlink()
    logging.info("%s", {k: v for k, v in report.items() if k != "first_dropped"})


def _engine(job: entry.Job, directory: Path, sampling: Regenerate) -> Generate:
    """The engine that generates answers."""
    jobs, target = job.run.config.resources.regenerate, job.run.config.target
    tokens = job.run.config.tokens
    if sampling.backend == "server":
        return OpenAIEngine(
            jobs.servers,
            sampling.model,
            jobs.concurrency,
            sampling,
            tokens.chat_template_options,
            tokens.system_prompt,
        )
    return HFAnswers(
        directory,
        tokens,
        sampling,
        jobs.batch,
        job.settings("regenerate").values["target"]["dtype"],
        job.run.config.resources.device,
        target.trust_remote_code,
        job.adapter,
    )


def _renderer(job: entry.Job, directory: Path) -> Renderer:
    """The renderer that tokenisation will use for the answers."""
    trust_remote_code = job.run.config.target.trust_remote_code
    tokenizer = load_tokenizer(directory, trust_remote_code)
    ids = stop_ids(directory, load_config(directory, trust_remote_code))
    return Renderer.of(tokenizer, job.run.config.tokens, ids)


if __name__ == "__main__":
    entry.start(main, __doc__)
