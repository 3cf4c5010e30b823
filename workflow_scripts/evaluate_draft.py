"""Decode prompts with the exported draft, and compare with the target's own answers."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import torch

from eagle3.artifact import Manifest, write_json
from eagle3.data.prompts import Question, questions
from eagle3.data.rows import Dataset
from eagle3.data.sources import Source, read_rows
from eagle3.serving.acceptance import KIND
from eagle3.serving.evaluation import Evaluator, evaluate
from eagle3.serving.exports.forms import form_of
from eagle3.target.files import resolve_target
from eagle3.tensorfile import read_manifest
from workflow_scripts import entry


def main() -> None:
    args = entry.parser(__doc__)
    args.add_argument("--dataset", type=Path, required=True)
    args.add_argument("--draft", type=Path, required=True)
    args.add_argument("--target", required=True)
    args.add_argument("--device", required=True)
    args.add_argument("--threads", type=int, required=True)
    args.add_argument("--batch", type=int, required=True, help="prompts answered together")
    args.add_argument("--prompts", type=json.loads, help="[[name, file], ...]; else held-out rows")
    args.add_argument("--out", type=Path, required=True)
    given = args.parse_args()
    torch.set_num_threads(given.threads)
    values = given.settings.values
    evaluator = Evaluator(
        resolve_target(given.target, values["target"]["revision"]),
        given.draft,
        values["evaluation"],
        values["target"],
        values["tokens"],
        given.device,
        given.batch,
        given.settings.upstream["export"],
    )
    held_out = Dataset(given.dataset, "eval", given.settings.upstream["dataset"])
    if given.prompts:
        sets = {name: questions(read_rows(Source(path))) for name, path in given.prompts}
    else:
        sets = {"held_out": map(Question.of, held_out)}
    figures = evaluate(evaluator, sets)
    draft = read_manifest(given.draft / "model.safetensors", form_of(given.draft).kind)
    inputs = {"draft": draft.content_sha256, "dataset": held_out.manifest.inputs["rows"]}
    write_json(given.out, figures, Manifest.of(KIND, given.settings, inputs))
    logging.info(
        "acceptance length %.3f %s, %.0f %% of target passes saved",
        figures["acceptance_length"],
        figures["acceptance_length_ci95"],
        100 * figures["target_passes_saved"],
    )


entry.run(main)
