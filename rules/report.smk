# The page about the run, for people.
rule report:
    input:
        dataset=rules.dataset.output.report,
        vocab=rules.vocab.output.report,
        plan=rules.plan.output,
        evaluation=rules.evaluate.output,
        metrics=stage_metrics,
        scores=stage_scores,
        best=rules.select_best.output.choice,
        tokens=token_shards,
        checks=capture_checks,
    output:
        report(
            f"{OUT}/report.html",
            caption="../docs/captions/report.rst",
            category="Report",
            labels={"what": "the run"},
        ),
    log:
        f"{LOGS}/report.log",
    benchmark:
        f"{TIMES}/report.tsv"
    conda:
        ENVIRONMENT
    container:
        IMAGE
    resources:
        options=options(
            metrics=listed(stage_metrics(None)),
            scores=listed(stage_scores(None)),
            tokens=listed(token_shards(None)),
            times=TIMES,
        ),
        checks=listed_each(captured(stage, ".check.json") for stage in capture_stages()),
    params:
        settings=settings("report"),
        code=code("write_report.py"),
    shell:
        "python -m workflow_scripts.write_report --settings {params.settings:q}"
        " --dataset {input.dataset:q} --vocab {input.vocab:q} --plan {input.plan:q}"
        " --evaluation {input.evaluation:q} --best {input.best:q} {resources.options}"
        " --checks {resources.checks} --out {output:q} > {log:q} 2>&1"
