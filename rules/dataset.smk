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
