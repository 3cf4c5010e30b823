# The draft in the forms that engines load: the one that the evaluation decodes with, and in a job of
# their own the others, so that one of them more or less leaves the evaluation as it is.
rule export:
    """The draft in the first form, which is what the evaluation decodes with."""
    input:
        TARGET_FILES,
        model=exported("model.safetensors"),
        state=exported("state.json"),
        vocab=rules.vocab.output.mapping,
    output:
        configs=forms(FORMS[:1], "config.json"),
        models=forms(FORMS[:1], "model.safetensors"),
    log:
        f"{LOGS}/export.log",
    benchmark:
        f"{TIMES}/export.tsv"
    conda:
        ENVIRONMENT
    container:
        IMAGE
    resources:
        options=options(target=TARGET, out=f"{OUT}/draft"),
    params:
        settings=form_settings(FORMS[:1]),
        code=code("export_draft.py"),
    shell:
        "python -m workflow_scripts.export_draft --settings {params.settings:q}"
        " --checkpoint {input.model:q} {input.state:q} --vocab {input.vocab:q} {resources.options}"
        " > {log:q} 2>&1"


if len(FORMS) > 1:

    use rule export as export_others with:
        output:
            configs=forms(FORMS[1:], "config.json"),
            models=forms(FORMS[1:], "model.safetensors"),
        log:
            f"{LOGS}/export_others.log",
        benchmark:
            f"{TIMES}/export_others.tsv"
        params:
            settings=form_settings(FORMS[1:]),
            code=code("export_draft.py"),

    localrules:
        export_others,
