# Capture: one independent job per shard. It depends on its token shard and the target alone, so
# that more samples, another schedule or another vocabulary never capture anything twice. The plan
# is looked at if it is there, for the disk that other shards will need; it is no input.
rule hidden_states:
    input:
        TARGET_FILES,
        tokens=rules.tokens.output,
    output:
        states=f"{OUT}/hidden_states/{{split}}/shard-{{shard}}.safetensors",
        check=f"{OUT}/hidden_states/{{split}}/shard-{{shard}}.check.json",
    log:
        f"{LOGS}/hidden_states/{{split}}-{{shard}}.log",
    benchmark:
        f"{TIMES}/hidden_states/{{split}}-{{shard}}.tsv"
    conda:
        CAPTURE_ENVIRONMENT
    threads: CAPTURE["threads"]
    resources:
        target=TARGET,
        device=DEVICE,
        gpu=gpus(CAPTURE["tensor_parallel"]),
        # SGLang starts its ranks itself
        processes=CAPTURE["tensor_parallel"] if BACKEND == "hf" else 1,
        tensor_parallel=CAPTURE["tensor_parallel"],
        batch_tokens=CAPTURE["batch_tokens"],
        self_check=int(CAPTURE["self_check"]),
        sglang_python=CAPTURE["sglang_python"],
        sglang_arguments=json.dumps(CAPTURE["sglang_arguments"]),
        disk_budget=DISK_BUDGET,
        plan=f"{OUT}/plan.json",
        shards=len(SHARDS),
    params:
        settings=settings("hidden_states"),
        code=version("hidden_states"),
    shell:
        "torchrun --standalone --nproc-per-node {resources.processes}"
        " -m workflow_scripts.capture_hidden_states --settings {params.settings:q}"
        " --tokens {input.tokens:q} --target {resources.target:q} --device {resources.device}"
        " --threads {threads} --batch-tokens {resources.batch_tokens}"
        " --tensor-parallel {resources.tensor_parallel} --self-check {resources.self_check}"
        " --sglang-python {resources.sglang_python:q}"
        " --sglang-arguments {resources.sglang_arguments:q} {resources.disk_budget}"
        " --plan {resources.plan:q} --shards {resources.shards} --out {output.states:q} --report {output.check:q}"
        " > {log:q} 2>&1"
