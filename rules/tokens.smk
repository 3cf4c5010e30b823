# Token shards, the draft vocabulary, and what follows from lengths alone: schedule and plan. Their
# priorities let people read the plan before most of the capture has begun.
rule tokens:
    input:
        TARGET_FILES,
        index=rules.dataset.output.index,
        rows=rules.dataset.output.rows,
        answers=ANSWERS if ANSWERED else [],
    output:
        f"{OUT}/tokens/{{split}}/shard-{{shard}}.safetensors",
    log:
        f"{LOGS}/tokens/{{split}}-{{shard}}.log",
    benchmark:
        f"{TIMES}/tokens/{{split}}-{{shard}}.tsv"
    cache: workflow.enable_cache
    priority: 30
    conda:
        ENVIRONMENT
    container:
        IMAGE
    resources:
        options=options(
            dataset=DATASET,
            target=TARGET,
            want=config["dataset"]["num_samples"],
            max_bad_fraction=config["dataset"]["max_bad_fraction"],
        ),
    params:
        settings=settings("tokens"),
        code=version_of_shard("tokens"),
    shell:
        "python -m workflow_scripts.tokenize_shard --settings {params.settings:q}"
        " {resources.options} --split {wildcards.split} --shard {wildcards.shard}"
        + (" --answers {input.answers:q}" if ANSWERED else "")
        + " --out {output:q} > {log:q} 2>&1"


offered_to_cache("tokens")


rule vocab:
    input:
        TARGET_FILES,
        tokens=token_shards,
    output:
        mapping=f"{OUT}/vocab/mapping.safetensors",
        report=f"{OUT}/vocab/mapping.json",
    log:
        f"{LOGS}/vocab.log",
    benchmark:
        f"{TIMES}/vocab.tsv"
    priority: 20
    conda:
        ENVIRONMENT
    container:
        IMAGE
    resources:
        options=options(tokens=listed(token_shards(None)), target=TARGET),
    params:
        settings=settings("vocab"),
        code=code("map_vocabulary.py"),
    shell:
        "python -m workflow_scripts.map_vocabulary --settings {params.settings:q}"
        " {resources.options} --out {output.mapping:q} --report {output.report:q} > {log:q} 2>&1"


rule schedule:
    input:
        tokens=token_shards,
    output:
        f"{OUT}/schedule.json",
    log:
        f"{LOGS}/schedule.log",
    benchmark:
        f"{TIMES}/schedule.tsv"
    priority: 20
    conda:
        ENVIRONMENT
    container:
        IMAGE
    resources:
        options=options(tokens=listed(token_shards(None))),
    params:
        settings=settings("schedule"),
        code=code("make_schedule.py"),
    shell:
        "python -m workflow_scripts.make_schedule --settings {params.settings:q}"
        " {resources.options} --out {output:q} > {log:q} 2>&1"


rule plan:
    """Disk, arithmetic and time, before any of it is spent. Read by people only."""
    input:
        TARGET_FILES,
        tokens=token_shards,
        held_out=held_out("tokens"),
        schedule=rules.schedule.output,
        vocab=rules.vocab.output.report,
    output:
        report(
            f"{OUT}/plan.json",
            caption="../docs/captions/plan.rst",
            category="Plan",
            labels={"what": "disk, arithmetic, time"},
        ),
    log:
        f"{LOGS}/plan.log",
    benchmark:
        f"{TIMES}/plan.tsv"
    priority: 20
    conda:
        ENVIRONMENT
    container:
        IMAGE
    resources:
        options=options(
            tokens=listed(token_shards(None)),
            held_out=listed(held_out("tokens")),
            target=TARGET,
            states=f"{OUT}/hidden_states/train",
            **DISK,
        ),
    params:
        settings=settings("plan"),
        code=code("make_plan.py"),
    shell:
        "python -m workflow_scripts.make_plan --settings {params.settings:q}"
        " --schedule {input.schedule:q} {resources.options} --out {output:q} 2>&1 | tee {log:q}"
