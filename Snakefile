from pathlib import Path

from snakemake.utils import min_version

min_version("9.0")


# The demo, unless a configuration is given: what that does not name has the default.
if not workflow.config_settings.configfiles:

    configfile: str(Path(workflow.basedir, "config.yaml"))


report: "docs/captions/workflow.rst"


include: "rules/common.smk"


container: IMAGE


include: "rules/dataset.smk"
include: "rules/target.smk"
include: "rules/tokens.smk"
include: "rules/hidden_states.smk"
include: "rules/training.smk"
include: "rules/selection.smk"
include: "rules/export.smk"
include: "rules/evaluation.smk"
include: "rules/report.smk"


if RUN.imports:

    include: "rules/imports.smk"


if RUN.config.hidden_states.source.kind == "run":

    include: "rules/shared.smk"


# seconds each: with a remote executor they run where snakemake does
localrules:
    train,
    prepare_data,
    capture,
    drafts,
    dataset,
    vocab,
    schedule,
    plan,
    select_best,
    export,
    report,


rule train:
    """The main job: a trained, exported and measured draft, and the report about it."""
    default_target: True
    input:
        PATHS.plan,
        [PATHS.draft(name, "config.json") for name in FORMATS],
        [PATHS.draft(name) for name in FORMATS],
        [PATHS.draft(name, "README.md") for name in FORMATS],
        PATHS.choice,
        PATHS.acceptance,
        PATHS.report,


# parts of it, by the words of other projects
rule prepare_data:
    """Every token shard, the draft's vocabulary and the schedule."""
    input:
        token_shards,
        RUN.held_out_tokens(),
        PATHS.vocab,
        PATHS.schedule,


rule capture:
    """Every hidden state. In rolling mode there is no such moment: capture and training alternate."""
    input:
        all_states,


rule drafts:
    """The draft in every format."""
    input:
        [PATHS.draft(name, "config.json") for name in FORMATS],
        [PATHS.draft(name) for name in FORMATS],
