"""Write the report of a run."""

from __future__ import annotations

from pathlib import Path

from eagle3.artifact import part_of, read_json, write_text
from eagle3.features.layout import CHECK_KIND
from eagle3.report.page import (
    RunFacts,
    add_checks,
    add_counts,
    read_metrics,
    render_page,
    wall_times,
)
from eagle3.report.plan import KIND as PLAN
from eagle3.serving.acceptance import KIND as EVALUATION
from eagle3.serving.selection import KIND as BEST
from eagle3.tensorfile import read_manifest
from eagle3.tokens.shards import KIND as TOKENS
from eagle3.tokens.vocab import KIND as VOCAB
from eagle3.training.early_stop import SCORE
from workflow_scripts import entry


def main() -> None:
    args = entry.parser(__doc__)
    for name in ("dataset", "vocab", "plan", "evaluation", "best"):
        args.add_argument(f"--{name}", type=Path, required=True)
    for name in ("metrics", "scores", "tokens", "checks"):
        args.add_argument(f"--{name}", action=entry.Files, nargs="+", required=True)
    args.add_argument("--times", type=Path, required=True, help="folder of benchmark files")
    args.add_argument("--out", type=Path, required=True)
    given = args.parse_args()
    upstream = given.settings.upstream
    checks = [read_json(path, CHECK_KIND, upstream["hidden_states"])[0] for path in given.checks]
    tokens = [read_manifest(path, TOKENS, upstream["tokens"]).counts for path in given.tokens]
    scores = [read_json(path, SCORE, upstream["score"], part_of(path))[0] for path in given.scores]
    best, _ = read_json(given.best, BEST, upstream["score"])
    chosen = given.settings.values["export"]["checkpoint"] == "best"
    facts = RunFacts(
        config=given.settings.values,
        dataset=read_json(given.dataset, "dataset", upstream["dataset"])[0],
        vocab=read_json(given.vocab, VOCAB, upstream["vocab"])[0],
        plan=read_json(given.plan, PLAN, upstream["plan"])[0],
        evaluation=read_json(given.evaluation, EVALUATION, upstream["evaluate"])[0],
        metrics=read_metrics(given.metrics),
        tokens=add_counts(tokens),
        capture=add_checks(checks),
        seconds=wall_times(given.times),
        stages=scores,
        exported=best["stage"] if chosen else len(scores),
    )
    write_text(given.out, render_page(facts))


entry.run(main)
