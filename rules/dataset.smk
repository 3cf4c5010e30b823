# From a source to every valid row in a fixed order. `num_samples` is not its business. The source
# is no input: its content is in `settings`, and its path or date alone should re-run nothing.
rule dataset:
    output:
        rows=f"{DATASET}/rows.jsonl",
        index=f"{DATASET}/rows.index.safetensors",
        report=f"{DATASET}/rows.report.json",
    log:
        f"{LOGS}/dataset.log",
    benchmark:
        f"{TIMES}/dataset.tsv"
    conda:
        ENVIRONMENT
    container:
        IMAGE
    resources:
        options=options(
            sources=to_text(EXTERNAL.sources),
            want=config["dataset"]["num_samples"],
            max_bad_fraction=config["dataset"]["max_bad_fraction"],
            out=DATASET,
        ),
    params:
        settings=settings("dataset"),
        code=version("dataset"),
    shell:
        "python -m workflow_scripts.prepare_dataset --settings {params.settings:q}"
        " {resources.options} > {log:q} 2>&1"


# The target answers the questions of a shard anew, with dataset.regenerate. What was answered before
# a kill lies in resume/, unknown to Snakemake.
rule regenerate:
    input:
        TARGET_FILES,
        index=rules.dataset.output.index,
        rows=rules.dataset.output.rows,
    output:
        answers=ANSWERS[0],
        report=ANSWERS[1],
    log:
        f"{LOGS}/regenerate/{{split}}-{{shard}}.log",
    benchmark:
        f"{TIMES}/regenerate/{{split}}-{{shard}}.tsv"
    priority: 40
    conda:
        ENVIRONMENT
    container:
        IMAGE
    threads: config["resources"]["regenerate"]["threads"]
    resources:
        gpu=gpus(int(config["dataset"]["regenerate"]["backend"] == "hf")),
        options=options(
            dataset=DATASET,
            target=TARGET,
            want=config["dataset"]["num_samples"],
            device=DEVICE,
            servers=",".join(config["resources"]["regenerate"]["servers"]) or None,
            concurrency=config["resources"]["regenerate"]["concurrency"],
            batch=config["resources"]["regenerate"]["batch"],
        ),
        resume=lambda wildcards: f"{OUT}/resume/answers/{wildcards.split}-{wildcards.shard}.jsonl",
    params:
        settings=settings("regenerate"),
        code=version_of_shard("regenerate"),
    shell:
        "python -m workflow_scripts.launch --gpus {resources.gpu} --processes 1 --"
        " workflow_scripts.regenerate_answers --settings {params.settings:q} --threads {threads}"
        " {resources.options} --split {wildcards.split} --shard {wildcards.shard}"
        " --resume {resources.resume:q} --out {output.answers:q} --report {output.report:q}"
        " > {log:q} 2>&1"
