"""Write the report of a run, and the model cards of its drafts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from eagle3.evaluation.acceptance import BEST
from eagle3.evaluation.acceptance import KIND as EVALUATION
from eagle3.files.artifact import part_of, read_json, write_text
from eagle3.files.tensor_file import read_manifest
from eagle3.report.card import licence_of, render_card
from eagle3.report.facts import RunFacts, add_checks, add_counts, read_metrics, wall_times
from eagle3.report.origin import (
    Origin,
    code_version,
    dataset_names,
    date_of_report,
    devices_text,
    machine_text,
)
from eagle3.report.page import render_page
from eagle3.store.disk_space import PLAN
from eagle3.store.layout import CHECK_KIND
from eagle3.target_model.files import card_of
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
    dataset, rows_manifest = read_json(Path(paths.rows_report), "dataset", upstream["dataset"])
    evaluation, evaluation_manifest = read_json(
        Path(paths.acceptance), EVALUATION, upstream["evaluate"]
    )
    metrics = read_metrics(list(map(Path, run.stage_metrics())))
    sources = run.external.sources
    origin = Origin(
        date=date_of_report(),
        code=code_version(),
        datasets=dataset_names(sources) or (dataset["source"],),
        rows_digest=rows_manifest.inputs["rows"],
        trained_on=devices_text(
            zip(metrics["ranks"], metrics["device"], strict=True), run.config.resources.device
        ),
        measured_on=machine_text(evaluation["machine"]),
        versions=evaluation_manifest.versions,
    )
    facts = RunFacts(
        config=settings.values,
        origin=origin,
        dataset=dataset,
        vocab=read(paths.vocab_report, VOCAB, "vocab"),
        plan=read(paths.plan, PLAN, "plan"),
        evaluation=evaluation,
        metrics=metrics,
        tokens=add_counts(
            [read_manifest(path, TOKENS, upstream["tokens"]).counts for path in tokens]
        ),
        capture=add_checks(
            [read(path, CHECK_KIND, "hidden_states") for path in run.capture_checks()]
        ),
        seconds=wall_times(Path(paths.benchmarks)),
        stages=scores,
        exported=read(paths.choice, BEST, "score")["stage"] if best else len(scores),
        tensor_parallel=run.config.resources.capture.tensor_parallel,
    )
    write_text(Path(paths.report), render_page(facts))
    licence = licence_of(card_of(run.target, run.config.target.revision))
    for name in run.config.export.formats:
        card = render_card(facts, name, sources, licence)
        write_text(Path(paths.draft(name, "README.md")), card)


if __name__ == "__main__":
    entry.start(main, __doc__)
