# The run, built from the configuration and checked, and what its rules share.
import gc
import os
import sys
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

# planning makes millions of objects that stay: looking for cycles in them takes a tenth of the time
gc.set_threshold(500_000)


def refuse(fault):
    """End with one sentence: Snakemake would put the place in its own file before it."""
    print(f"error: {fault}", file=sys.stderr)
    sys.exit(1)


# of this workflow, also where another one loads it as a module; a copy in Snakemake's cache, alone,
# where it is read out of a repository
ROOT = Path(workflow.source_path("common.smk")).parents[1]
IN_FOLDER = (ROOT / "workflow_scripts").is_dir()
if IN_FOLDER:
    sys.path.insert(0, str(ROOT))
elif not find_spec("eagle3"):
    refuse(
        "this workflow is read out of a repository, which jobs cannot import from: install the "
        "same version of it where snakemake is (pip install git+https://...@<tag>)"
    )

from eagle3.engines.table import ENGINES
from eagle3.errors import UserError
from eagle3.report import outcome
from eagle3.workflow import (
    containers,
    gpu_limit,
    object_storage,
    prepare,
    project,
    provenance,
)
from eagle3.workflow.snakemake_internals import SnakemakeInternals

if not IN_FOLDER:
    ROOT = project.project_root()
    if not project.same_text(
        workflow.source_path("stage_versions.yaml"), ROOT / "rules"
    ):
        refuse(
            f"this workflow and the installed package eagle3 ({ROOT}) are of different versions; "
            "install the tag or commit that the module names"
        )


SNAKEMAKE = SnakemakeInternals(workflow)
METHODS = SNAKEMAKE.deployment_methods
CONTAINERS = "apptainer" in METHODS
if CONTAINERS and "conda" in METHODS:
    refuse("--sdm: give conda or apptainer, not both: the images hold no conda")
try:
    if SNAKEMAKE.plans:
        RUN = prepare.new_run(config, SNAKEMAKE.configfiles, ROOT, bool(METHODS))
    else:
        RUN = prepare.planned_run(config)
    if RUN.config.resources.storage_prefix:
        object_storage.check_plugin(RUN.config.resources.storage_prefix)
        object_storage.share_settings(SNAKEMAKE.s3_settings)
    ENGINE = ENGINES[RUN.config.hidden_states.backend]
    IMAGE = prepare.image("eagle3", RUN, ROOT)
    CAPTURE_IMAGE = prepare.image(ENGINE.environment, RUN, ROOT)
    os.environ.update(prepare.environment(RUN, ROOT, bool(METHODS), CONTAINERS))
except UserError as fault:
    refuse(fault)

PATHS, JOBS, STAGES = RUN.paths, RUN.config.resources, RUN.stages
HELD_OUT = replace(PATHS, rolling=False)  # their states stay in rolling mode too
FORMATS = RUN.config.export.formats  # the first is what the evaluation decodes with
VERSIONS = prepare.stage_versions(ROOT / "rules" / "stage_versions.yaml")
ENVIRONMENT = str(ROOT / "envs" / "eagle3.yaml")  # used with --sdm conda
CAPTURE_ENVIRONMENT = str(ROOT / "envs" / f"{ENGINE.environment}.yaml")
GPUS_OF_JOBS = {
    "resources.capture.tensor_parallel": JOBS.capture.tensor_parallel,
    "resources.train.processes": JOBS.train.processes,
}
if JOBS.device == "cuda":
    gpu_limit.limit_local_gpus(SNAKEMAKE, GPUS_OF_JOBS, os.environ)


onstart:
    if SNAKEMAKE.plans:
        check_before_jobs()


onsuccess:
    if SNAKEMAKE.plans:
        print_summary()


def print_summary():
    """Print the summary of the run if its report was requested. A workflow that loads this one as a
    module calls this in its own `onsuccess`, since Snakemake skips the one of a module.
    """
    if SNAKEMAKE.asks_for(PATHS.report):
        try:
            print("", *outcome.summary(RUN), "", sep="\n", flush=True)
        except UserError as fault:
            print(f"no summary: {fault}", file=sys.stderr)


def check_before_jobs():
    """The GPUs and images of the jobs to come are there."""
    try:
        gpu_limit.check_local_gpus(SNAKEMAKE, GPUS_OF_JOBS, os.environ)
        if CONTAINERS:
            for name, image in (("eagle3", IMAGE), (ENGINE.environment, CAPTURE_IMAGE)):
                if image in SNAKEMAKE.images():
                    own = getattr(JOBS.containers, name) is None
                    containers.check_there(name, image, own=own)
    except UserError as fault:
        refuse(fault)


def settings(stage):
    """What shapes the output of a stage, a line for each key, so that Snakemake names the key that
    changed."""
    return RUN.settings[stage].lines


def export_settings(formats):
    """The same of some formats of the export."""
    return [
        f"{name}: {line}"
        for name in formats
        for line in RUN.settings[f"export_{name}"].lines
    ]


def code(script):
    """Digest of a script and of all it imports. Params have no names: Snakemake's cache sorts them
    by name, and can not sort some with and some without."""
    return f"code {provenance.code_digest(ROOT / 'workflow_scripts' / script, ROOT)}"


def version(stage):
    """Hand-kept version of a stage upstream of the hidden states."""
    return f"version {VERSIONS[stage]['version']}"


def version_of_shard(stage):
    """The same for a stage of many shards. The shard is named because Snakemake's cache between
    workflows knows jobs by their params and not by their wildcards."""
    return lambda wildcards: f"{version(stage)}, {wildcards.split} {wildcards.shard}"


def gpus(count):
    """GPUs of a job; on a machine without GPUs, none are requested."""
    return count if JOBS.device == "cuda" else 0


def offered_to_cache(name):
    """Snakemake refuses a benchmark together with its cache between workflows, since what comes from there
    took no time; so a rule has one only as long as --cache is not given."""
    if SNAKEMAKE.caches_between_workflows:
        SNAKEMAKE.drop_benchmark(name)


def stored(path, retrieve=True, temporary=False):
    """Where a large file is: the path itself, or the object of that name in object storage.

    With `retrieve` Snakemake gives jobs a copy and uploads what they write; without, they read and
    write the object themselves.
    """
    if not JOBS.storage_prefix:
        return temp(path) if temporary else path
    address = RUN.stored(path)
    # marked before it becomes an object: `temp` takes none, though Snakemake removes them all right
    return storage.s3(temp(address) if temporary else address, retrieve=retrieve)


def unmoved(addresses):
    """Files that jobs read where they are, in object storage too."""
    if not JOBS.storage_prefix:
        return addresses
    return list(map(partial(storage.s3, retrieve=False), addresses))


# Long lists of inputs are given as functions: of a list itself, Snakemake hashes all of it once for
# each of its files, which takes minutes with thousands of shards.
def token_shards(wildcards):
    return RUN.token_shards()


def all_states(wildcards):
    if RUN.rolling:
        refuse(
            "hidden_states.keep is false, so only two windows of states are there at a time: ask for "
            "train, which captures and removes them"
        )
    states = [RUN.stored(PATHS.states("train", shard)) for shard in RUN.shards]
    return unmoved(states + RUN.held_out_states())


def scored_inside(wildcards):
    """What training scores the draft on inside a stage, if it does."""
    if not RUN.scores_inside:
        return []
    return RUN.held_out_tokens() + unmoved(RUN.held_out_states())


def previous_checkpoint(wildcards):
    """Files of the stage before, none for the first."""
    above = int(wildcards.stage) - 1
    names = (
        ("model.safetensors", "optimizer.safetensors", "state.json") if above else ()
    )
    return [stored(PATHS.checkpoint(above, name)) for name in names]


def window_gate(wildcards):
    """Rolling mode: the window of a stage waits until the stage two before it is trained."""
    done = int(wildcards.stage) - 2
    return stored(PATHS.checkpoint(done)) if done > 0 else []


def capture_priority(wildcards):
    """Windows in the order of their stages; training and what is cheap go before any capture."""
    if RUN.rolling:
        return -int(wildcards.stage)
    return -STAGES.first_reader(int(wildcards.shard))


def exported(name):
    """A file of the checkpoint that is exported."""
    best = RUN.config.export.checkpoint == "best"
    return stored(PATHS.best(name) if best else PATHS.checkpoint(STAGES.count, name))


wildcard_constraints:
    split="train|eval",
    shard=r"\d{5}",
    stage=r"\d{4}",
