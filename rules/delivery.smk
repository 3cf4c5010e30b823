# What people take away: the exported draft, its measured acceptance, and the report.
rule export_sglang:
    input:
        model=stored(f"{checkpoint(STAGES.count)}/model.safetensors"),
        state=stored(f"{checkpoint(STAGES.count)}/state.json"),
        vocab=rules.vocab.output.mapping,
    output:
        config=f"{OUT}/draft/sglang/config.json",
        model=f"{OUT}/draft/sglang/model.safetensors",
    log:
        f"{LOGS}/export_sglang.log",
    benchmark:
        f"{TIMES}/export_sglang.tsv"
    conda:
        ENVIRONMENT
    container:
        IMAGE
    resources:
        options=options(out=f"{OUT}/draft/sglang"),
    params:
        settings=settings("export"),
        code=code("export_sglang.py"),
    shell:
        "python -m workflow_scripts.export_sglang --settings {params.settings:q}"
        " --checkpoint {input.model:q} {input.state:q} --vocab {input.vocab:q} {resources.options}"
        " > {log:q} 2>&1"


rule evaluate:
    input:
        TARGET_FILES,
        draft=rules.export_sglang.output,
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
        gpu=gpus(1),
        options=options(
            dataset=DATASET,
            draft=f"{OUT}/draft/sglang",
            target=TARGET,
            device=DEVICE,
        ),
    params:
        settings=settings("evaluate"),
        code=code("evaluate_draft.py"),
    shell:
        "python -m workflow_scripts.launch --gpus {resources.gpu} --processes 1 --"
        " workflow_scripts.evaluate_draft --settings {params.settings:q} --threads {threads}"
        " {resources.options} --out {output:q} 2>&1 | tee {log:q}"


rule report:
    input:
        dataset=rules.dataset.output.report,
        vocab=rules.vocab.output.report,
        plan=rules.plan.output,
        evaluation=rules.evaluate.output,
        metrics=stage_metrics,
        tokens=token_shards,
        checks=capture_checks,
    output:
        report(
            f"{OUT}/report.html",
            caption="../docs/captions/report.rst",
            category="Report",
            labels={"what": "the run"},
        ),
    log:
        f"{LOGS}/report.log",
    benchmark:
        f"{TIMES}/report.tsv"
    conda:
        ENVIRONMENT
    container:
        IMAGE
    resources:
        options=options(
            metrics=listed(stage_metrics(None)),
            tokens=listed(token_shards(None)),
            times=TIMES,
        ),
        checks=listed_each(captured(stage, ".check.json") for stage in capture_stages()),
    params:
        settings=settings("report"),
        code=code("write_report.py"),
    shell:
        "python -m workflow_scripts.write_report --settings {params.settings:q}"
        " --dataset {input.dataset:q} --vocab {input.vocab:q} --plan {input.plan:q}"
        " --evaluation {input.evaluation:q} {resources.options}"
        " --checks {resources.checks} --out {output:q} > {log:q} 2>&1"
