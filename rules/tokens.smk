# Token shards, the draft vocabulary, and what follows from lengths alone: schedule and plan. Their
# priorities let people read the plan before most of the capture has begun.
rule tokens:
    """Token ids and loss masks of a shard."""
    input:
        RUN.target_files,
        index=PATHS.rows_index,
        rows=PATHS.rows,
        answers=[PATHS.answers(), PATHS.answers_report()] if RUN.regenerates else [],
    output:
        PATHS.tokens(),
    log:
        PATHS.log("tokens/{split}-{shard}"),
    benchmark:
        PATHS.times("tokens/{split}-{shard}")
    cache: SNAKEMAKE.caches_between_workflows
    priority: 30
    conda:
        ENVIRONMENT
    params:
        *settings("tokens"),
        version_of_shard("tokens"),
    message:
        "tokens: {wildcards.split} shard {wildcards.shard}"
    shell:
        "python -m workflow_scripts.tokenize_shard"
        " --split {wildcards.split} --shard {wildcards.shard} > {log:q} 2>&1"


offered_to_cache("tokens")


rule vocab:
    """The draft's vocabulary: the most frequent supervised tokens of training."""
    input:
        RUN.target_files,
        tokens=token_shards,
    output:
        mapping=PATHS.vocab,
        report=PATHS.vocab_report,
    log:
        PATHS.log("vocab"),
    benchmark:
        PATHS.times("vocab")
    priority: 20
    conda:
        ENVIRONMENT
    params:
        *settings("vocab"),
        code("map_vocabulary.py"),
    message:
        "vocab: the draft's vocabulary"
    shell:
        "python -m workflow_scripts.map_vocabulary > {log:q} 2>&1"


rule schedule:
    """Steps, epochs and packs of every stage."""
    input:
        tokens=token_shards,
    output:
        PATHS.schedule,
    log:
        PATHS.log("schedule"),
    benchmark:
        PATHS.times("schedule")
    priority: 20
    conda:
        ENVIRONMENT
    params:
        *settings("schedule"),
        code("make_schedule.py"),
    message:
        "schedule: steps of every stage"
    shell:
        "python -m workflow_scripts.make_schedule > {log:q} 2>&1"


rule plan:
    """Disk, arithmetic and time, before any of it is spent. Read by people only."""
    input:
        RUN.target_files,
        tokens=token_shards,
        held_out=RUN.held_out_tokens(),
        schedule=PATHS.schedule,
        vocab=PATHS.vocab_report,
    output:
        report(
            PATHS.plan,
            caption="../docs/captions/plan.rst",
            category="Plan",
            labels={"what": "disk, arithmetic, time"},
        ),
    log:
        PATHS.log("plan"),
    benchmark:
        PATHS.times("plan")
    priority: 20
    conda:
        ENVIRONMENT
    params:
        *settings("plan"),
        code("make_plan.py"),
    message:
        "plan: disk, arithmetic and time of the run"
    shell:
        "python -m workflow_scripts.make_plan 2>&1 | tee -i {log:q}"
