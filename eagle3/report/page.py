"""The report: one self-contained HTML page about a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jinja2
import markupsafe

from eagle3.files.hub import HUB
from eagle3.report import plots
from eagle3.report.facts import RunFacts
from eagle3.report.outcome import slower_text
from eagle3.report.plan import size_text
from eagle3.report.serve_commands import serve_commands

TEMPLATE = Path(__file__).with_name("page.html.jinja")


def render_page(facts: RunFacts) -> str:
    """The page as HTML. It loads nothing: styles and pictures are inside."""
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {
        "count": lambda value: f"{value:,}",
        "percent": lambda value: f"{value:.1%}",
        "size": size_text,
        "duration": duration,
    }
    evaluation, vocab, worth = facts.evaluation, facts.vocab, facts.worth
    pictures = {
        "loss": plots.loss_curve(facts.metrics),
        "accuracy": plots.accuracy_curves(facts.metrics),
        "rate": plots.rate_curve(facts.metrics),
        "acceptance": plots.acceptance_bars(evaluation["per_position_acceptance"]),
        "speedup": plots.speedup_bars(worth.by_length),
        "coverage": plots.coverage(
            vocab["coverage_curve"], vocab["draft_vocab_size"], vocab["coverage"]
        ),
    }
    if facts.stages:
        pictures["stages"] = plots.stage_curve(facts.stages, facts.exported, _scores_inside(facts))
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    model, run = facts.config["target"]["model"], facts.config["run"]
    return template.render(
        run=run,
        facts=facts,
        worth=worth,
        measured=measurements(evaluation),
        target="the embedded target" if model == "embedded" else model.removeprefix(HUB),
        commands=serve_commands(facts.config, worth.best_length, facts.tensor_parallel),
        slower=slower_text(worth),
        text_agreement=facts.stages[-1]["text_agreement"] if facts.stages else None,
        pictures={name: markupsafe.Markup(svg) for name, svg in pictures.items()},  # noqa: S704
        config=json.dumps(facts.config, indent=2),
        example=_median_prompt(evaluation["per_prompt"]),
    )


def _scores_inside(facts: RunFacts) -> list[tuple[float, float]]:
    """Epochs and held-out acceptance lengths where the draft was scored inside a stage."""
    scored = plots.scored_inside(facts.metrics)
    if not len(scored):
        return []
    epochs = facts.config["train"]["epochs"] * (scored["step"] + 1) / facts.plan["all_steps"]
    return list(zip(epochs, scored["held_out_acceptance_length"], strict=True))


def measurements(evaluation: dict[str, Any]) -> list[dict[str, Any]]:
    """Lines of the measurements by decoding: each set of prompts, all together, and sampled."""
    sets = evaluation["sets"]
    titles = {"held_out": "held-out prompts"}
    lines = [{"name": titles.get(name, name), **figures} for name, figures in sets.items()]
    if len(lines) > 1:
        lines.append({"name": "all prompts", **evaluation})
    sampled = evaluation.get("sampled", {})
    for kind in ("argmax", "sampled") if sampled else ():
        name = f"sampled at temperature {sampled['temperature']:g}, {kind} proposals"
        lines.append({"name": name, **sampled[f"{kind}_proposals"]})
    return lines


def duration(seconds: float) -> str:
    """Measured time as text, in whole seconds from a minute on."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _median_prompt(records: list[dict[str, Any]]) -> dict[str, Any]:
    """The prompt whose tokens per target pass are the median: neither the best nor the worst."""
    order = sorted(records, key=lambda r: r["new_tokens"] / r["passes_speculative"])
    return order[len(order) // 2]
