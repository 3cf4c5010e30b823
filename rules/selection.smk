# Which checkpoint is delivered: each stage's is scored on held-out hidden states, and the best one
# is what the export reads. Scoring is a separate job, so that no training waits for it.
rule score_stage:
    """Acceptance of a stage's draft on held-out states."""
    input:
        RUN.target_files,
        tokens=RUN.held_out_tokens(),
        states=unmoved(RUN.held_out_states()),
        vocab=PATHS.vocab,
        model=stored(PATHS.checkpoint()),
        state=stored(PATHS.checkpoint(name="state.json")),
    output:
        PATHS.score(),
    log:
        PATHS.log("score/stage-{stage}"),
    benchmark:
        PATHS.times("score/stage-{stage}")
    conda:
        ENVIRONMENT
    threads: JOBS.evaluate.threads
    resources:
        gpu=gpus(1),
    params:
        *settings("score"),
        code("score_stage.py"),
    message:
        f"score_stage: stage {{wildcards.stage}} of {STAGES.count}"
    shell:
        "python -m workflow_scripts.launch --gpus {resources.gpu} -- workflow_scripts.score_stage"
        " --stage {wildcards.stage} --checkpoint {input.model:q} --threads {threads} > {log:q} 2>&1"


rule select_best:
    """The checkpoint of the best held-out acceptance."""
    input:
        scores=lambda wildcards: RUN.stage_scores(),
        models=unmoved([RUN.stored(PATHS.checkpoint(n)) for n in STAGES.numbers]),
        states=unmoved(
            [RUN.stored(PATHS.checkpoint(n, "state.json")) for n in STAGES.numbers]
        ),
    output:
        choice=PATHS.choice,
        model=stored(PATHS.best()),
        state=stored(PATHS.best("state.json")),
    log:
        PATHS.log("select_best"),
    benchmark:
        PATHS.times("select_best")
    conda:
        ENVIRONMENT
    params:
        *settings("score"),
        code("select_best.py"),
    message:
        f"select_best: the best of {STAGES.count} stages"
    shell:
        "python -m workflow_scripts.select_best --out {output.model:q} > {log:q} 2>&1"
