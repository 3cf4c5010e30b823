rule train_stage:
    """One stage of training: some epochs over a window of shards, and a checkpoint. Saves inside a
    stage are in resume/, unknown to Snakemake."""
    input:
        RUN.target_files,
        tokens=lambda wildcards: RUN.window_tokens(int(wildcards.stage)),
        states=lambda wildcards: unmoved(RUN.window_states(int(wildcards.stage))),
        vocab=PATHS.vocab,
        schedule=PATHS.schedule,
        previous=previous_checkpoint,
        scores=lambda wildcards: RUN.scores_before(int(wildcards.stage)),
        held_out=scored_inside,
    output:
        model=stored(PATHS.checkpoint()),
        optimizer=stored(PATHS.checkpoint(name="optimizer.safetensors"), temporary=True),
        state=stored(PATHS.checkpoint(name="state.json")),
        metrics=PATHS.metrics(),
    log:
        PATHS.log("train/stage-{stage}"),
    benchmark:
        PATHS.times("train/stage-{stage}")
    priority: 10
    conda:
        ENVIRONMENT
    threads: JOBS.train.threads
    resources:
        gpu=gpus(JOBS.train.processes),
        processes=JOBS.train.processes,
        nodes=1,  # a cluster's profile may say more; processes and GPUs are those of each
    params:
        *settings("train"),
        code("train_stage.py"),
    message:
        f"train_stage: stage {{wildcards.stage}} of {STAGES.count}"
    # SIGTERM goes to all processes of a cluster's job, and Ctrl-C to all of a terminal's: the shell
    # and the log wait for the save
    shell:
        "trap : INT TERM; python -m workflow_scripts.launch --gpus {resources.gpu}"
        " --processes {resources.processes} --nodes {resources.nodes} -- workflow_scripts.train_stage"
        " --stage {wildcards.stage} --threads {threads} --out {output.model:q}"
        " --previous {input.previous:q} 2>&1 | (trap '' INT TERM; exec tee {log:q})"
