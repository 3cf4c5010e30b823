# Capture: one independent job per shard. It depends on its token shard and the target alone, so
# that more samples, another schedule or another vocabulary never capture anything twice. The plan
# is read if it is there, for the disk that other shards will need; it is not an input. In rolling
# mode a shard is removed once its stage is trained, and a window waits for the stage two before.
rule hidden_states:
    """The target's states of a shard, as training reads them."""
    input:
        RUN.target_files,
        tokens=PATHS.tokens(),
        gate=window_gate if RUN.rolling else [],
    output:
        # a job uploads the shard itself: Snakemake would keep its local copy until training is done
        states=stored(PATHS.states(), retrieve=False, temporary=RUN.rolling),
        check=PATHS.states_check(),
    log:
        PATHS.log(f"hidden_states/{PATHS.captured()}"),
    benchmark:
        PATHS.times(f"hidden_states/{PATHS.captured()}")
    wildcard_constraints:
        split="train",
    cache: SNAKEMAKE.caches_between_workflows and not RUN.rolling
    priority: capture_priority if STAGES.windows > 1 else -1
    conda:
        CAPTURE_ENVIRONMENT
    container:
        CAPTURE_IMAGE
    threads: JOBS.capture.threads
    resources:
        gpu=gpus(JOBS.capture.tensor_parallel),
        # other engines start their ranks themselves
        processes=JOBS.capture.tensor_parallel if ENGINE.in_job else 1,
        # rolling mode: whose window the shard is of; held-out shards are of none
        window=lambda wildcards: int(wildcards.get("stage", 0)),
    params:
        *settings("hidden_states"),
        version_of_shard("hidden_states"),
    message:
        f"hidden_states: shard {{wildcards.shard}} of {len(RUN.shards)}"
    shell:
        "python -m workflow_scripts.launch --gpus {resources.gpu} --processes {resources.processes}"
        " -- workflow_scripts.capture_hidden_states --split {wildcards.split}"
        " --shard {wildcards.shard} --stage {resources.window} --threads {threads} > {log:q} 2>&1"


# They stay, in rolling mode too: every stage's checkpoint is scored on them.
use rule hidden_states as held_out_states with:
    input:
        RUN.target_files,
        tokens=PATHS.tokens(),
    output:
        states=stored(HELD_OUT.states(), retrieve=False),
        check=HELD_OUT.states_check(),
    log:
        PATHS.log(f"hidden_states/{HELD_OUT.captured()}"),
    benchmark:
        PATHS.times(f"hidden_states/{HELD_OUT.captured()}")
    wildcard_constraints:
        split="eval",
    cache: SNAKEMAKE.caches_between_workflows
    priority: -1
    message:
        f"held_out_states: shard {{wildcards.shard}} of {len(RUN.held_out)}"


offered_to_cache("hidden_states")
offered_to_cache("held_out_states")
