"""Decode prompts with the exported draft, and compare with the target's own answers."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import torch

from eagle3.data.prompts import Question, questions
from eagle3.data.rows import DatasetFile
from eagle3.data.sources import Source, read_rows
from eagle3.evaluation.acceptance import KIND
from eagle3.evaluation.evaluator import Evaluator, evaluate
from eagle3.export.formats import format_of
from eagle3.files.artifact import Manifest, read_json, write_json
from eagle3.files.tensor_file import read_manifest
from eagle3.imports.index import KIND as DATASET
from eagle3.imports.prompts import prompts_of
from eagle3.parallel.device import machine
from eagle3.tokens.shards import read_token_shards
from workflow_scripts import entry


def main(job: entry.Job) -> None:
    torch.set_num_threads(job.threads)
    run, settings = job.run, job.settings("evaluate")
    folder = Path(run.paths.draft(run.config.export.formats[0])).parent
    evaluator = Evaluator(
        job.target_folder(),
        folder,
        settings.values["evaluation"],
        settings.values["target"],
        settings.values["tokens"],
        run.config.resources.device,
        run.config.resources.evaluate.batch,
        settings.upstream["export"],
        job.adapter,
    )
    held_out, rows = _held_out(job)
    if run.external.prompts:
        sets = {name: questions(read_rows(Source(path))) for name, path in run.external.prompts}
    else:
        sets = {"held_out": held_out}
    figures = evaluate(evaluator, sets) | {"machine": machine(run.config.resources.device)}
    draft = read_manifest(folder / "model.safetensors", format_of(folder).kind)
    inputs = {"draft": draft.content_sha256, "dataset": rows}
    write_json(Path(run.paths.acceptance), figures, Manifest.of(KIND, settings, inputs))
    logging.info(
        "acceptance length %.3f %s, %.0f %% of target passes saved",
        figures["acceptance_length"],
        figures["acceptance_length_ci95"],
        100 * figures["target_passes_saved"],
    )


def _held_out(job: entry.Job) -> tuple[Iterator[Question], str]:
    """Questions of held-out conversations, and the digest of their dataset. Imported states have
    only tokens, whose prompts are those before their last answers."""
    run, digest = job.run, job.settings("evaluate").upstream["dataset"]
    if not run.imports:
        dataset = DatasetFile(Path(run.paths.dataset), "eval", digest)
        return map(Question.of, dataset), dataset.manifest.inputs["rows"]
    _, report = read_json(Path(run.paths.rows_report), DATASET, digest)
    shards = read_token_shards(run.held_out_tokens(), run.settings["tokens"].digest)
    return prompts_of(shards), report.inputs["rows"]


if __name__ == "__main__":
    entry.start(main, __doc__)
