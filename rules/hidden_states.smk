# Capture: one independent job per shard. It depends on its token shard and the target alone, so
# that more samples, another schedule or another vocabulary never capture anything twice. The plan
# is looked at if it is there, for the disk that other shards will need; it is no input. In rolling
# mode a shard is removed once its stage is trained, and a window waits for the stage two before.
rule hidden_states:
    input:
        TARGET_FILES,
        tokens=rules.tokens.output,
        gate=window_gate if ROLLING else [],
    output:
        # a job uploads the shard itself: Snakemake would keep its local copy until training is done
        states=stored(
            f"{OUT}/hidden_states/{CAPTURED}.safetensors",
            retrieve=False,
            temporary=ROLLING,
        ),
        check=f"{OUT}/hidden_states/{CAPTURED}.check.json",
    log:
        f"{LOGS}/hidden_states/{CAPTURED}.log",
    benchmark:
        f"{TIMES}/hidden_states/{CAPTURED}.tsv"
    wildcard_constraints:
        split="train",
    cache: workflow.enable_cache and not ROLLING
    priority: capture_priority if STAGES.windows > 1 else -1
    conda:
        CAPTURE_ENVIRONMENT
    container:
        CAPTURE_IMAGE
    threads: CAPTURE["threads"]
    resources:
        gpu=gpus(CAPTURE["tensor_parallel"]),
        # SGLang starts its ranks itself
        processes=CAPTURE["tensor_parallel"] if BACKEND == "hf" else 1,
        # rolling mode: whose window the shard is of; held-out shards are of none
        window=lambda wildcards: (
            f" --stage {wildcards.stage}" if "stage" in wildcards.keys() else ""
        ),
        options=options(
            target=TARGET,
            device=DEVICE,
            batch_tokens=CAPTURE["batch_tokens"],
            tensor_parallel=CAPTURE["tensor_parallel"],
            self_check=int(CAPTURE["self_check"]),
            sglang_python=CAPTURE["sglang_python"],
            sglang_arguments=json.dumps(CAPTURE["sglang_arguments"]),
            plan=f"{OUT}/plan.json",
            stages=json.dumps(vars(STAGES)),
            **DISK,
        ),
    params:
        settings=settings("hidden_states"),
        code=version_of_shard("hidden_states"),
    shell:
        "python -m workflow_scripts.launch --gpus {resources.gpu} --processes {resources.processes} --"
        " workflow_scripts.capture_hidden_states --settings {params.settings:q}"
        " --tokens {input.tokens:q} --threads {threads} {resources.options}{resources.window}"
        " --split {wildcards.split} --out {output.states:q} --report {output.check:q} > {log:q} 2>&1"


# The same for conversations that training never sees. They stay, in rolling mode too: every
# stage's checkpoint is scored on them.
use rule hidden_states as held_out_states with:
    input:
        TARGET_FILES,
        tokens=rules.tokens.output,
    output:
        states=stored(
            f"{OUT}/hidden_states/{{split}}/shard-{{shard}}.safetensors",
            retrieve=False,
        ),
        check=f"{OUT}/hidden_states/{{split}}/shard-{{shard}}.check.json",
    log:
        f"{LOGS}/hidden_states/{{split}}/shard-{{shard}}.log",
    benchmark:
        f"{TIMES}/hidden_states/{{split}}/shard-{{shard}}.tsv"
    wildcard_constraints:
        split="eval",
    cache: workflow.enable_cache
    priority: -1


offered_to_cache("hidden_states")
offered_to_cache("held_out_states")
