# States of another run of the same settings (docs/import.md): shards that it has are referred to, the
# others are captured.
ruleorder: shared_states > hidden_states
ruleorder: shared_held_out > held_out_states


def shared(split):
    """A pattern of the numbers of the shards that the other run has."""
    return "|".join(RUN.shared_shards(split)) or "none"


rule shared_states:
    """A link to a shard of the other run."""
    input:
        tokens=PATHS.tokens(),
    output:
        states=PATHS.states(),
        check=PATHS.states_check(),
    log:
        PATHS.log(f"shared_states/{PATHS.captured()}"),
    benchmark:
        PATHS.times(f"shared_states/{PATHS.captured()}")
    wildcard_constraints:
        split="train",
        shard=shared("train"),
    priority: -1
    conda:
        ENVIRONMENT
    params:
        *settings("hidden_states"),
        version_of_shard("hidden_states"),
    message:
        f"shared_states: shard {{wildcards.shard}} of {len(RUN.shards)}"
    shell:
        "python -m workflow_scripts.share_states --split {wildcards.split}"
        " --shard {wildcards.shard} > {log:q} 2>&1"


use rule shared_states as shared_held_out with:
    log:
        PATHS.log(f"shared_states/{HELD_OUT.captured()}"),
    benchmark:
        PATHS.times(f"shared_states/{HELD_OUT.captured()}")
    wildcard_constraints:
        split="eval",
        shard=shared("eval"),
    message:
        f"shared_held_out: shard {{wildcards.shard}} of {len(RUN.held_out)}"


localrules:
    shared_states,
    shared_held_out,
