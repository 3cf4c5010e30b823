# The draft in the formats that engines load: the one that the evaluation decodes with, and in a
# separate job the others, so that adding or removing one of them does not re-run the evaluation.
rule export:
    """The draft in the first format, which is what the evaluation decodes with."""
    input:
        RUN.target_files,
        model=exported("model.safetensors"),
        state=exported("state.json"),
        vocab=PATHS.vocab,
    output:
        configs=[PATHS.draft(name, "config.json") for name in FORMATS[:1]],
        models=[PATHS.draft(name) for name in FORMATS[:1]],
    log:
        PATHS.log("export"),
    benchmark:
        PATHS.times("export")
    conda:
        ENVIRONMENT
    params:
        *settings(f"export_{FORMATS[0]}"),
        code("export_draft.py"),
    message:
        f"export: the draft for {FORMATS[0]}"
    shell:
        "python -m workflow_scripts.export_draft --checkpoint {input.model:q} --out {output.models:q}"
        " > {log:q} 2>&1"


if len(FORMATS) > 1:

    rule export_others:
        """The draft in the other formats."""
        input:
            RUN.target_files,
            model=exported("model.safetensors"),
            state=exported("state.json"),
            vocab=PATHS.vocab,
        output:
            configs=[PATHS.draft(name, "config.json") for name in FORMATS[1:]],
            models=[PATHS.draft(name) for name in FORMATS[1:]],
        log:
            PATHS.log("export_others"),
        benchmark:
            PATHS.times("export_others")
        conda:
            ENVIRONMENT
        params:
            *export_settings(FORMATS[1:]),
            code("export_draft.py"),
        message:
            f"export_others: the draft for {', '.join(FORMATS[1:])}"
        shell:
            "python -m workflow_scripts.export_draft --checkpoint {input.model:q}"
            " --out {output.models:q} > {log:q} 2>&1"

    localrules:
        export_others,
