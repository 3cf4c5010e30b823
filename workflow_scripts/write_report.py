"""Write the report of a run."""

from __future__ import annotations

import json
from pathlib import Path

from eagle3.artifact import read_json, write_text
from eagle3.features.selfcheck import KIND as CHECK
from eagle3.report.page import (
    RunFacts,
    add_checks,
    add_counts,
    read_metrics,
    render_page,
    wall_times,
)
from eagle3.report.plan import KIND as PLAN
from eagle3.serving.evaluation import KIND as EVALUATION
from eagle3.tensorfile import read_manifest
from eagle3.tokens.shards import KIND as TOKENS
from eagle3.tokens.vocab import KIND as VOCAB
from workflow_scripts import entry


def main() -> None:
    args = entry.parser(__doc__)
    for name in ("dataset", "vocab", "plan", "evaluation"):
        args.add_argument(f"--{name}", type=Path, required=True)
    for name in ("metrics", "tokens", "checks"):
        args.add_argument(f"--{name}", action=entry.Files, nargs="+", required=True)
    args.add_argument("--stages", action=entry.Files, nargs="+", default=[], help="held-out scores")
    args.add_argument("--best", type=Path, help="which stage was exported")
    args.add_argument("--times", type=Path, required=True, help="folder of benchmark files")
    args.add_argument("--out", type=Path, required=True)
    given = args.parse_args()
    upstream = given.settings.upstream
    checks = [read_json(path, CHECK, upstream["hidden_states"])[0] for path in given.checks]
    tokens = [read_manifest(path, TOKENS, upstream["tokens"]).counts for path in given.tokens]
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
        stages=[json.loads(path.read_text(encoding="utf-8")) for path in given.stages],
        best=json.loads(given.best.read_text(encoding="utf-8"))["stage"] if given.best else None,
    )
    write_text(given.out, render_page(facts))


entry.run(main)
