rule evaluate:
    """How good the draft is: prompts are decoded with it and without it."""
    input:
        RUN.target_files,
        draft=[PATHS.draft(FORMATS[0], "config.json"), PATHS.draft(FORMATS[0])],
        rows=[] if RUN.imports else [PATHS.rows, PATHS.rows_index],
        held_out=[PATHS.rows_report, *RUN.held_out_tokens()] if RUN.imports else [],
    output:
        report(
            PATHS.acceptance,
            caption="../docs/captions/acceptance.rst",
            category="Evaluation",
            labels={"what": "acceptance length"},
        ),
    log:
        PATHS.log("evaluate"),
    benchmark:
        PATHS.times("evaluate")
    conda:
        ENVIRONMENT
    threads: JOBS.evaluate.threads
    resources:
        gpu=gpus(JOBS.capture.tensor_parallel),  # as many as hold the target
    params:
        *settings("evaluate"),
        code("evaluate_draft.py"),
    message:
        "evaluate: prompts are decoded with the draft"
    shell:
        "python -m workflow_scripts.launch --gpus {resources.gpu} -- workflow_scripts.evaluate_draft"
        " --threads {threads} 2>&1 | tee -i {log:q}"
