# The tiny target of the embedded default; any other target comes from outside and has no rule.
if RUN.target_files:

    rule embedded_target:
        """A tiny target, trained on the bundled conversations."""
        output:
            RUN.target_files,
        log:
            PATHS.log("embedded_target"),
        benchmark:
            PATHS.times("embedded_target")
        conda:
            ENVIRONMENT
        threads: 2
        params:
            *settings("embedded_target"),
            version("embedded_target"),
        message:
            "embedded_target: a tiny target is trained"
        shell:
            "python -m workflow_scripts.train_embedded_target --threads {threads} 2>&1 | tee -i {log:q}"
