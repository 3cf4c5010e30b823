rule dataset:
    """Every usable conversation of the sources in a fixed order. The sources are no input: their
    content is in the settings, and a path or date alone re-runs nothing."""
    output:
        rows=PATHS.rows,
        index=PATHS.rows_index,
        report=PATHS.rows_report,
    log:
        PATHS.log("dataset"),
    benchmark:
        PATHS.times("dataset")
    conda:
        ENVIRONMENT
    params:
        *settings("dataset"),
        version("dataset"),
    message:
        "dataset: conversations from the sources"
    shell:
        "python -m workflow_scripts.prepare_dataset > {log:q} 2>&1"


rule regenerate:
    """The target's own answers to the conversations of a shard, with dataset.regenerate. Answers
    before a kill are in resume/, unknown to Snakemake."""
    input:
        RUN.target_files,
        index=PATHS.rows_index,
        rows=PATHS.rows,
    output:
        answers=PATHS.answers(),
        report=PATHS.answers_report(),
    log:
        PATHS.log("regenerate/{split}-{shard}"),
    benchmark:
        PATHS.times("regenerate/{split}-{shard}")
    priority: 40
    conda:
        ENVIRONMENT
    threads: JOBS.regenerate.threads
    resources:
        gpu=gpus(int(RUN.config.dataset.regenerate.backend == "hf")),
    params:
        *settings("regenerate"),
        version_of_shard("regenerate"),
    message:
        "regenerate: answers of {wildcards.split} shard {wildcards.shard}"
    shell:
        "python -m workflow_scripts.launch --gpus {resources.gpu} --"
        " workflow_scripts.regenerate_answers --split {wildcards.split} --shard {wildcards.shard}"
        " --threads {threads} > {log:q} 2>&1"
