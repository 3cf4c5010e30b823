# The draft in the forms that engines load. The first is what the evaluation decodes with.
FORMS = config["export"]["formats"]


rule export:
    input:
        TARGET_FILES,
        model=exported("model.safetensors"),
        state=exported("state.json"),
        vocab=rules.vocab.output.mapping,
    output:
        config=f"{OUT}/draft/{{form}}/config.json",
        model=f"{OUT}/draft/{{form}}/model.safetensors",
    log:
        f"{LOGS}/export_{{form}}.log",
    benchmark:
        f"{TIMES}/export_{{form}}.tsv"
    wildcard_constraints:
        form="|".join(FORMS),
    conda:
        ENVIRONMENT
    container:
        IMAGE
    resources:
        options=lambda wildcards: options(
            format=wildcards.form,
            target=TARGET,
            out=f"{OUT}/draft/{wildcards.form}",
        ),
    params:
        settings=lambda wildcards: settings(f"export_{wildcards.form}")(wildcards),
        code=code("export_draft.py"),
    shell:
        "python -m workflow_scripts.export_draft --settings {params.settings:q}"
        " --checkpoint {input.model:q} {input.state:q} --vocab {input.vocab:q} {resources.options}"
        " > {log:q} 2>&1"
