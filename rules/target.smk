# The tiny target of the embedded default; any other target comes from outside and has no rule.
if EXTERNAL.target is None:

    rule embedded_target:
        output:
            TARGET_FILES,
        log:
            f"{LOGS}/embedded_target.log",
        benchmark:
            f"{TIMES}/embedded_target.tsv"
        conda:
            ENVIRONMENT
        container:
            IMAGE
        threads: 2
        resources:
            options=options(source=EXTERNAL.embedded_source, out=TARGET),
        params:
            settings=settings("embedded_target"),
            code=version("embedded_target"),
        shell:
            "python -m workflow_scripts.train_embedded_target --settings {params.settings:q}"
            " --threads {threads} {resources.options} 2>&1 | tee {log:q}"
