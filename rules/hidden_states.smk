# Capture: one independent job per shard. It depends on its token shard and the target alone, so
# that more samples, another schedule or another vocabulary never capture anything twice.
rule hidden_states:
    input:
        TARGET_FILES,
        tokens=rules.tokens.output,
    output:
        f"{OUT}/hidden_states/{{split}}/shard-{{shard}}.safetensors",
    log:
        f"{LOGS}/hidden_states/{{split}}-{{shard}}.log",
    benchmark:
        f"{TIMES}/hidden_states/{{split}}-{{shard}}.tsv"
    conda:
        ENVIRONMENT
    threads: config["resources"]["capture"]["threads"]
    resources:
        target=TARGET,
        device=DEVICE,
        gpu=gpus(1),
        batch_tokens=config["resources"]["capture"]["batch_tokens"],
    params:
        settings=settings("hidden_states"),
        code=version("hidden_states"),
    shell:
        "torchrun --standalone --nproc-per-node 1"
        " -m workflow_scripts.capture_hidden_states --settings {params.settings:q}"
        " --tokens {input.tokens:q} --target {resources.target:q} --device {resources.device}"
        " --threads {threads} --batch-tokens {resources.batch_tokens} --out {output:q}"
        " > {log:q} 2>&1"
