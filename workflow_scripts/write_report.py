"""Write the report of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from eagle3.artifact import part_of, read_json, write_text
from eagle3.features.layout import CHECK_KIND
from eagle3.features.space import PLAN
from eagle3.report.page import (
    RunFacts,
    add_checks,
    add_counts,
    read_metrics,
    render_page,
    wall_times,
)
from eagle3.serving.acceptance import KIND as EVALUATION
from eagle3.serving.selection import KIND as BEST
from eagle3.tensorfile import read_manifest
from eagle3.tokens.shards import KIND as TOKENS
from eagle3.tokens.vocab import KIND as VOCAB
from eagle3.training.early_stop import SCORE
from workflow_scripts import entry


def main(job: entry.Job) -> None:
    run, paths, settings = job.run, job.run.paths, job.settings("report")
    upstream = settings.upstream

    def read(path: str, kind: str, stage: str) -> Any:
        return read_json(Path(path), kind, upstream[stage])[0]

    tokens = map(Path, run.token_shards())
    stages = list(map(Path, run.stage_scores()))
    scores = [read_json(path, SCORE, upstream["score"], part_of(path))[0] for path in stages]
    best = run.config.export.checkpoint == "best"
    facts = RunFacts(
        config=settings.values,
        dataset=read(paths.rows_report, "dataset", "dataset"),
        vocab=read(paths.vocab_report, VOCAB, "vocab"),
        plan=read(paths.plan, PLAN, "plan"),
        evaluation=read(paths.acceptance, EVALUATION, "evaluate"),
        metrics=read_metrics(list(map(Path, run.stage_metrics()))),
        tokens=add_counts(
            [read_manifest(path, TOKENS, upstream["tokens"]).counts for path in tokens]
        ),
        capture=add_checks(
            [read(path, CHECK_KIND, "hidden_states") for path in run.capture_checks()]
        ),
        seconds=wall_times(Path(paths.benchmarks)),
        stages=scores,
        exported=read(paths.choice, BEST, "score")["stage"] if best else len(scores),
    )
    write_text(Path(paths.report), render_page(facts))


if __name__ == "__main__":
    entry.start(main, __doc__)
