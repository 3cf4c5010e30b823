"""Summary of a run: its warnings, and five lines for the end of a call of Snakemake."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eagle3.evaluation.acceptance import KIND as EVALUATION
from eagle3.evaluation.acceptance import unlearned
from eagle3.files.artifact import read_json
from eagle3.report.serve_commands import serve_commands
from eagle3.report.speedup import Estimate, estimate_of
from eagle3.run import Run
from eagle3.store.disk_space import PLAN


def warnings_of(
    section: Mapping[str, Any], plan: Mapping[str, Any], evaluation: Mapping[str, Any]
) -> list[str]:
    """Sentences to read before trusting the figures; empty for a usual run.

    `section`: `evaluation` of the configuration; `plan` and `evaluation`: contents of the files.
    """
    warnings = []
    if sentence := unlearned(evaluation):
        warnings.append(sentence)
    worth = estimate_of(evaluation, plan)
    if not worth.pays:
        warnings.append(slower_text(worth))
    warnings += plan["doubts"]
    questions = {(record["set"], record["id"]) for record in evaluation["per_prompt"]}
    for name in evaluation["sets"]:
        count = sum(set_name == name for set_name, _ in questions)
        if count < section["num_prompts"]:
            warnings.append(
                f"{name}: only {count} of the {section['num_prompts']} prompts of "
                "evaluation.num_prompts were usable"
            )
    return warnings


def slower_text(worth: Estimate) -> str:
    """Why a draft should not be served."""
    return (
        f"serving this draft should be slower than serving the target alone (estimated speed-up "
        f"{worth.best:.2f}x at best): train on more data or longer, or make the draft smaller"
    )


def summary(run: Run) -> list[str]:
    """Five lines about a finished run.

    Raises UserError if its plan or its evaluation is missing or of another configuration.
    """
    config, settings = run.config.to_dict(), run.settings
    plan, _ = read_json(Path(run.paths.plan), PLAN, settings["plan"].digest)
    figures, _ = read_json(Path(run.paths.acceptance), EVALUATION, settings["evaluate"].digest)
    worth, warnings = estimate_of(figures, plan), warnings_of(config["evaluation"], plan, figures)
    low, high = figures["acceptance_length_ci95"]
    first, unigram = figures["per_position_acceptance"][0], figures["unigram_acceptance"]
    ranks = run.config.resources.capture.tensor_parallel
    commands = serve_commands(config, worth.best_length, ranks) if worth.pays else {}
    command = next(iter(commands.values()), "").replace(" \\\n   ", "")
    reason = (
        "no engine loads the formats in export.formats"
        if worth.pays
        else "not recommended, see the warnings"
    )
    prefix = "" if len(warnings) == 1 else f"{len(warnings)}, the first: "
    return [
        f"acceptance length {figures['acceptance_length']:.2f} (95 %: {low:.2f} to {high:.2f}) "
        f"tokens per target pass with {figures['num_speculative_tokens']} draft tokens per round",
        f"against 1.00 without a draft; the first draft token is accepted in {first:.0%} of the "
        f"passes, always guessing the most frequent token would reach {unigram:.0%}",
        f"report: {run.paths.report}",
        f"serve: {command or reason}",
        f"warnings: {prefix}{warnings[0]}" if warnings else "warnings: none",
    ]
