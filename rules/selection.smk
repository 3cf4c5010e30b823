# Which checkpoint is delivered: each stage's is scored on held-out hidden states, and the best one
# is what the export reads. Scoring is a job of its own, so that no training waits for it.
rule score_stage:
    input:
        TARGET_FILES,
        tokens=held_out("tokens"),
        states=unmoved(held_out("hidden_states")),
        vocab=rules.vocab.output.mapping,
        model=stored(f"{OUT}/checkpoints/stage-{{stage}}/model.safetensors"),
        state=stored(f"{OUT}/checkpoints/stage-{{stage}}/state.json"),
    output:
        f"{OUT}/evaluation/stage-{{stage}}.json",
    log:
        f"{LOGS}/score/stage-{{stage}}.log",
    benchmark:
        f"{TIMES}/score/stage-{{stage}}.tsv"
    conda:
        ENVIRONMENT
    container:
        IMAGE
    threads: config["resources"]["evaluate"]["threads"]
    resources:
        gpu=gpus(1),
        options=options(
            tokens=listed(held_out("tokens")),
            hidden_states=told(held_out("hidden_states")),
            target=TARGET,
            device=DEVICE,
            # of the stage's training, whose settings those of the score include
            epochs=config["train"]["epochs"],
            pack_tokens=config["train"]["pack_tokens"],
        ),
    params:
        settings=settings("score"),
        code=code("score_stage.py"),
    shell:
        "python -m workflow_scripts.launch --gpus {resources.gpu} --processes 1 --"
        " workflow_scripts.score_stage --settings {params.settings:q} --stage {wildcards.stage}"
        " --checkpoint {input.model:q} {input.state:q} --vocab {input.vocab:q} --threads {threads}"
        " {resources.options} --out {output:q} > {log:q} 2>&1"


rule select_best:
    input:
        scores=stage_scores,
        models=unmoved(candidates("model.safetensors")),
        states=unmoved(candidates("state.json")),
    output:
        choice=f"{OUT}/evaluation/best.json",
        model=stored(f"{OUT}/checkpoints/best/model.safetensors"),
        state=stored(f"{OUT}/checkpoints/best/state.json"),
    log:
        f"{LOGS}/select_best.log",
    benchmark:
        f"{TIMES}/select_best.tsv"
    conda:
        ENVIRONMENT
    container:
        IMAGE
    resources:
        options=options(
            scores=listed(stage_scores(None)),
            models=told(candidates("model.safetensors")),
        ),
    params:
        settings=settings("score"),
        code=code("select_best.py"),
    shell:
        "python -m workflow_scripts.select_best --settings {params.settings:q} {resources.options}"
        " --choice {output.choice:q} --out {output.model:q} {output.state:q} > {log:q} 2>&1"
