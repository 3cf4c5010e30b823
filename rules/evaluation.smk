# How good the draft is, measured.
rule evaluate:
    input:
        TARGET_FILES,
        draft=rules.export.output,
        rows=rules.dataset.output.rows,
        index=rules.dataset.output.index,
    output:
        report(
            f"{OUT}/evaluation/acceptance.json",
            caption="../docs/captions/acceptance.rst",
            category="Evaluation",
            labels={"what": "acceptance length"},
        ),
    log:
        f"{LOGS}/evaluate.log",
    benchmark:
        f"{TIMES}/evaluate.tsv"
    conda:
        ENVIRONMENT
    container:
        IMAGE
    threads: config["resources"]["evaluate"]["threads"]
    resources:
        gpu=gpus(CAPTURE["tensor_parallel"]),  # as many as hold the target
        options=options(
            dataset=DATASET,
            draft=f"{OUT}/draft/{FORMS[0]}",
            target=TARGET,
            device=DEVICE,
            batch=config["resources"]["evaluate"]["batch"],
            prompts=json.dumps(EXTERNAL.prompts) if EXTERNAL.prompts else None,
        ),
    params:
        settings=settings("evaluate"),
        code=code("evaluate_draft.py"),
    shell:
        "python -m workflow_scripts.launch --gpus {resources.gpu} --processes 1 --"
        " workflow_scripts.evaluate_draft --settings {params.settings:q} --threads {threads}"
        " {resources.options} --out {output:q} 2>&1 | tee {log:q}"
