# States of another project (docs/import.md): they bring tokens and masks, so these rules take the
# place of `dataset`, `tokens` and `hidden_states`. Their files are the same, and so is everything
# that follows. The files of the other project are no inputs: their names and sizes are in settings.
ruleorder: import_source > dataset
ruleorder: import_tokens > tokens
ruleorder: import_states > hidden_states
ruleorder: import_held_out > held_out_states


rule import_source:
    """The states compared with those of the target, before anything is converted, and the order of
    their documents."""
    input:
        RUN.target_files,
    output:
        index=PATHS.import_index,
        report=PATHS.rows_report,
    log:
        PATHS.log("import_source"),
    benchmark:
        PATHS.times("import_source")
    conda:
        ENVIRONMENT
    threads: JOBS.capture.threads
    resources:
        gpu=gpus(JOBS.capture.tensor_parallel),
    params:
        *settings("dataset"),
        version("import_source"),
    message:
        "import_source: states of another project are compared with the target's"
    shell:
        "python -m workflow_scripts.launch --gpus {resources.gpu} -- workflow_scripts.import_source"
        " --threads {threads} > {log:q} 2>&1"


rule import_tokens:
    """Token ids and loss masks of a shard."""
    input:
        RUN.target_files,
        index=PATHS.import_index,
    output:
        PATHS.tokens(),
    log:
        PATHS.log("import_tokens/{split}-{shard}"),
    benchmark:
        PATHS.times("import_tokens/{split}-{shard}")
    cache: SNAKEMAKE.caches_between_workflows
    priority: 30
    conda:
        ENVIRONMENT
    params:
        *settings("tokens"),
        version_of_shard("import_tokens"),
    message:
        "import_tokens: {wildcards.split} shard {wildcards.shard}"
    shell:
        "python -m workflow_scripts.import_tokens"
        " --split {wildcards.split} --shard {wildcards.shard} > {log:q} 2>&1"


# like a capture in everything but what fills the shard, rolling windows and object storage included
rule import_states:
    """The states of a shard in our own form."""
    input:
        RUN.target_files,
        tokens=PATHS.tokens(),
        index=PATHS.import_index,
        gate=window_gate if RUN.rolling else [],
    output:
        states=stored(PATHS.states(), retrieve=False, temporary=RUN.rolling),
        check=PATHS.states_check(),
    log:
        PATHS.log(f"import_states/{PATHS.captured()}"),
    benchmark:
        PATHS.times(f"import_states/{PATHS.captured()}")
    wildcard_constraints:
        split="train",
    cache: SNAKEMAKE.caches_between_workflows and not RUN.rolling
    priority: capture_priority if STAGES.windows > 1 else -1
    conda:
        ENVIRONMENT
    threads: JOBS.capture.threads
    resources:
        gpu=gpus(JOBS.capture.tensor_parallel),
        window=lambda wildcards: int(wildcards.get("stage", 0)),
    params:
        *settings("hidden_states"),
        version_of_shard("import_states"),
    message:
        f"import_states: shard {{wildcards.shard}} of {len(RUN.shards)}"
    shell:
        "python -m workflow_scripts.launch --gpus {resources.gpu} -- workflow_scripts.import_states"
        " --split {wildcards.split} --shard {wildcards.shard} --stage {resources.window}"
        " --threads {threads} > {log:q} 2>&1"


use rule import_states as import_held_out with:
    input:
        RUN.target_files,
        tokens=PATHS.tokens(),
        index=PATHS.import_index,
    output:
        states=stored(HELD_OUT.states(), retrieve=False),
        check=HELD_OUT.states_check(),
    log:
        PATHS.log(f"import_states/{HELD_OUT.captured()}"),
    benchmark:
        PATHS.times(f"import_states/{HELD_OUT.captured()}")
    wildcard_constraints:
        split="eval",
    cache: SNAKEMAKE.caches_between_workflows
    priority: -1
    message:
        f"import_held_out: shard {{wildcards.shard}} of {len(RUN.held_out)}"


for name in ("import_tokens", "import_states", "import_held_out"):
    offered_to_cache(name)
