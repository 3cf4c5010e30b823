# One job and one checkpoint per stage; saves inside a stage lie in resume/, unknown to Snakemake.
rule train_stage:
    input:
        TARGET_FILES,
        tokens=window_tokens,
        states=window_states,
        vocab=rules.vocab.output.mapping,
        schedule=rules.schedule.output,
        previous=previous_checkpoint,
        scores=scores_before,
    output:
        model=stored(f"{OUT}/checkpoints/stage-{{stage}}/model.safetensors"),
        optimizer=stored(
            f"{OUT}/checkpoints/stage-{{stage}}/optimizer.safetensors", temporary=True
        ),
        state=stored(f"{OUT}/checkpoints/stage-{{stage}}/state.json"),
        metrics=f"{OUT}/metrics/stage-{{stage}}.jsonl",
    log:
        f"{LOGS}/train/stage-{{stage}}.log",
    benchmark:
        f"{TIMES}/train/stage-{{stage}}.tsv"
    priority: 10
    conda:
        ENVIRONMENT
    container:
        IMAGE
    threads: config["resources"]["train"]["threads"]
    resources:
        tokens=lambda wildcards: listed(window_tokens(wildcards)),
        states=listed_states,
        gpu=gpus(config["resources"]["train"]["processes"]),
        processes=config["resources"]["train"]["processes"],
        nodes=1,  # a cluster's profile may say more; processes and GPUs are those of each
        resume=lambda wildcards: f"{OUT}/resume/stage-{wildcards.stage}",
        scores=lambda wildcards: listed_each([scores_before(wildcards)]),
        options=options(
            target=TARGET,
            device=DEVICE,
            warm_start=EXTERNAL.warm_start,
            tracking=f"{OUT}/tracking",
            **of_train(
                "tracker",
                "save_interval",
                "recompute",
                "data_parallel",
                "sp_ulysses_size",
                "sp_ring_size",
            ),
        ),
    params:
        settings=settings("train"),
        code=code("train_stage.py"),
    # SIGTERM goes to all processes of a cluster's job, and Ctrl-C to all of a terminal's: the shell
    # and the log wait for the save
    shell:
        "trap : INT TERM; python -m workflow_scripts.launch --gpus {resources.gpu}"
        " --processes {resources.processes} --nodes {resources.nodes} --"
        " workflow_scripts.train_stage --settings {params.settings:q}"
        " --code {params.code} --stage {wildcards.stage}"
        " --tokens {resources.tokens:q} --hidden-states {resources.states:q}"
        " --vocab {input.vocab:q} --schedule {input.schedule:q} --previous {input.previous:q}"
        " --scores {resources.scores}"
        " --threads {threads} {resources.options} --resume {resources.resume:q}"
        " --metrics {output.metrics:q} --out {output.model:q} {output.optimizer:q} {output.state:q} 2>&1"
        " | (trap '' INT TERM; exec tee {log:q})"
