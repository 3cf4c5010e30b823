"""The report: one self-contained HTML page about a run."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import markupsafe
import pandas as pd

from eagle3.artifact import software_versions
from eagle3.report import plots
from eagle3.report.plan import size_text, time_text
from eagle3.report.serve import commands
from eagle3.report.speedup import estimate

TEMPLATE = Path(__file__).with_name("page.html.jinja")


@dataclass(frozen=True)
class RunFacts:
    """Everything the page is made of."""

    config: dict[str, Any]
    dataset: dict[str, Any]  # rows.report.json
    vocab: dict[str, Any]  # mapping.json
    plan: dict[str, Any]
    evaluation: dict[str, Any]
    metrics: pd.DataFrame  # one row per optimiser step
    tokens: dict[str, Any]  # counts added up over the token shards
    capture: dict[str, Any]  # what the self-checks found, put together
    seconds: dict[str, float]  # rule name: wall time, added up over its jobs
    stages: list[dict[str, Any]] = field(default_factory=list)  # held-out figures of each stage
    exported: int | None = None  # the stage that was exported


def render_page(facts: RunFacts) -> str:
    """The page as HTML. It loads nothing: styles and pictures are inside."""
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {
        "count": lambda value: f"{value:,}",
        "percent": lambda value: f"{value:.1%}",
        "size": size_text,
        "time": time_text,
        "duration": duration,
    }
    evaluation, vocab, plan = facts.evaluation, facts.vocab, facts.plan
    worth = estimate(
        evaluation["per_position_acceptance"], plan["draft_parameters"], plan["target_parameters"]
    )
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
        pictures["stages"] = plots.stage_curve(facts.stages, facts.exported)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    model, run = facts.config["target"]["model"], facts.config["run"]
    embedded = model == "embedded"
    served = commands(
        facts.config.get("export", {}).get("formats", ["sglang"]),
        f"results/{run}/target" if embedded else model.removeprefix("hub:"),
        f"results/{run}/draft",
        worth.best_length,
    )
    return template.render(
        run=run,
        facts=facts,
        worth=worth,
        measured=measurements(evaluation),
        target="the embedded target" if embedded else model.removeprefix("hub:"),
        commands=served,
        pictures={name: markupsafe.Markup(svg) for name, svg in pictures.items()},  # noqa: S704
        config=json.dumps(facts.config, indent=2),
        versions=software_versions(),
        example=_middling(evaluation["per_prompt"]),
    )


def measurements(evaluation: dict[str, Any]) -> list[dict[str, Any]]:
    """What was measured by decoding, a line each: every set of prompts, all of them, sampled."""
    sets = evaluation["sets"]
    own = {"held_out": "held-out prompts"}
    lines = [{"name": own.get(name, name), **figures} for name, figures in sets.items()]
    if len(lines) > 1:
        lines.append({"name": "all prompts", **evaluation})
    sampled = evaluation.get("sampled", {})
    for kind in ("argmax", "sampled") if sampled else ():
        at = f"sampled at temperature {sampled['temperature']:g}, {kind} proposals"
        lines.append({"name": at, **sampled[f"{kind}_proposals"]})
    return lines


def duration(seconds: float) -> str:
    """Measured time, to the second from a minute on."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _middling(records: list[dict[str, Any]]) -> dict[str, Any]:
    """The prompt whose tokens per target pass are the median: neither the best nor the worst."""
    order = sorted(records, key=lambda r: r["new_tokens"] / r["passes_speculative"])
    return order[len(order) // 2]


def read_metrics(paths: list[Path]) -> pd.DataFrame:
    """Metrics of all stages, one row per optimiser step."""
    records = []
    for path in paths:
        records += [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return pd.DataFrame(records)


def add_counts(counts: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts of token shards, added up; causes of dropped rows too."""
    dropped: dict[str, int] = {}
    for count in counts:
        for cause, number in count["dropped"].items():
            dropped[cause] = dropped.get(cause, 0) + number
    names = ("rows", "documents", "tokens", "supervised", "truncated")
    return {name: sum(count[name] for count in counts) for name in names} | {"dropped": dropped}


def add_checks(checks: list[dict[str, Any]]) -> dict[str, Any]:
    """The self-checks of all shards in one: sums, and the least cosine of any layer."""
    cosines = [value for check in checks for value in check["cosines"].values()]
    return {
        "aux_layers": checks[0]["aux_layers"],
        "bytes": sum(check["bytes"] for check in checks),
        "rows": sum(check["rows"] for check in checks),
        "argmax_agrees": sum(check["argmax_agrees"] for check in checks),
        "least_cosine": min(cosines, default=None),
    }


def wall_times(folder: Path) -> dict[str, float]:
    """Seconds per rule, from Snakemake's benchmark files."""
    found: dict[str, float] = {}
    for path in sorted(folder.rglob("*.tsv")):
        rule = path.relative_to(folder).parts[0].removesuffix(".tsv")
        seconds = pd.to_numeric(pd.read_csv(path, sep="\t")["s"], errors="coerce").sum()
        found[rule] = found.get(rule, 0.0) + float(seconds)
    return dict(sorted(found.items(), key=lambda item: -item[1]))
