rule report:
    """The page about the run, and the model cards of its drafts: exports come before any figure."""
    input:
        dataset=PATHS.rows_report,
        vocab=PATHS.vocab_report,
        plan=PATHS.plan,
        evaluation=PATHS.acceptance,
        metrics=lambda wildcards: RUN.stage_metrics(),
        scores=lambda wildcards: RUN.stage_scores(),
        best=PATHS.choice,
        tokens=token_shards,
        checks=lambda wildcards: RUN.capture_checks(),
    output:
        report(
            PATHS.report,
            caption="../docs/captions/report.rst",
            category="Report",
            labels={"what": "the run"},
        ),
        [PATHS.draft(name, "README.md") for name in FORMATS],
    log:
        PATHS.log("report"),
    benchmark:
        PATHS.times("report")
    conda:
        ENVIRONMENT
    params:
        *settings("report"),
        code("write_report.py"),
    message:
        "report: the page about the run and the model cards"
    shell:
        "python -m workflow_scripts.write_report > {log:q} 2>&1"
