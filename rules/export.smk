# The draft in the form that engines load.
rule export_sglang:
    input:
        model=exported("model.safetensors"),
        state=exported("state.json"),
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
