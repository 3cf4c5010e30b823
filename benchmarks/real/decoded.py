"""Acceptance of a draft in memory by real decoding, as the job `evaluate` measures it."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from eagle3.data.prompts import questions
from eagle3.data.sources import Source, read_rows
from eagle3.draft.model import Eagle3Draft
from eagle3.errors import UserError
from eagle3.evaluation.evaluator import Evaluator, evaluate
from eagle3.export.exported import Description, write_draft
from eagle3.export.huggingface import HF
from eagle3.files.artifact import Settings
from eagle3.run import Run
from eagle3.tokens.vocab import VocabMapping

KEPT = (
    "acceptance_length",
    "acceptance_length_ci95",
    "per_position_acceptance",
    "num_speculative_tokens",
    "prompts",
    "new_tokens",
)


def check_sets(run: Run) -> None:
    """Raises UserError if the run has no sets of prompts."""
    if not run.external.prompts:
        raise UserError("--prompts: the run has no evaluation.prompts to take them from")


def decoded(
    run: Run, draft: Eagle3Draft, mapping: VocabMapping, prompts: int, draft_tokens: int
) -> dict[str, Any]:
    """Figures of answers to `prompts` prompts of each set of the run, with `draft_tokens` drafts
    a pass. The draft is exported and read back, in float32."""
    values = run.config.to_dict()
    section = values["evaluation"] | {
        "num_prompts": prompts,
        "num_speculative_tokens": draft_tokens,
        "temperature": 0.0,
    }
    weights = {name: tensor.numpy() for name, tensor in draft.state_dict().items()}
    with TemporaryDirectory() as folder:
        described = Description(draft.config, "float32")
        settings = Settings("bench", {}, {})
        write_draft(HF, Path(folder), described, weights, mapping, settings, {})
        evaluator = Evaluator(
            Path(run.target),
            Path(folder),
            section,
            values["target"],
            values["tokens"],
            "cpu",
            run.config.resources.evaluate.batch,
        )
        sets = {name: questions(read_rows(Source(path))) for name, path in run.external.prompts}
        figures = evaluate(evaluator, sets)
    own = {name: figures[name] for name in KEPT}
    by_set = {name: each["acceptance_length"] for name, each in figures["sets"].items()}
    return own | {"sets": by_set}
