# The configuration, checked, and what follows from it: shards, stages, settings, images.
import gc
import json
import math
import os
import sys
from dataclasses import asdict
from pathlib import Path

from snakemake.settings.types import DeploymentMethod

# planning makes millions of objects that stay: looking for cycles in them takes a tenth of the time
gc.set_threshold(500_000)

ROOT = Path(workflow.basedir)
sys.path.insert(0, str(ROOT))

from eagle3.config.configuration import Config
from eagle3.data.sources import Source, to_text
from eagle3.errors import UserError
from eagle3.tokens.stages import Stages
from rules import containers, preflight, provenance
from rules import storage as object_storage
from rules.gpu_limit import check_local_gpus, limit_local_gpus
from rules.settings import all_settings
from rules.words import listed, listed_each, options


def refuse(fault):
    """End with one sentence: Snakemake would put the place in its own file before it."""
    print(f"error: {fault}", file=sys.stderr)
    sys.exit(1)


METHODS = workflow.deployment_settings.deployment_method  # of --sdm
CONTAINERS = DeploymentMethod.APPTAINER in METHODS
if CONTAINERS and DeploymentMethod.CONDA in METHODS:
    refuse("--sdm: give conda or apptainer, not both: the images hold no conda")

# Jobs on a cluster read this file again when they start, maybe after config.yaml was edited. They
# must see the configuration that the DAG was built from; two runs may be under way at once.
SNAPSHOT = Path(f".snakemake/eagle3-config-{config.get('run')}.json")

if not workflow.is_main_process:
    if not SNAPSHOT.is_file():
        refuse(f"{SNAPSHOT} is missing: the run was renamed while its jobs waited")
    config.clear()
    config.update(json.loads(SNAPSHOT.read_text()))

try:
    checked = Config.of(config).to_dict()
    config.clear()
    config.update(checked)
    EXTERNAL = preflight.locate(config, ROOT, Path(".snakemake/eagle3-digests.json"))
    SETTINGS = all_settings(config, EXTERNAL)
    if not METHODS:  # a job's own environment may have what this one has not
        preflight.check_tracker(config["resources"]["train"]["tracker"])
    if config["resources"]["storage_prefix"]:
        object_storage.check_plugin(config["resources"]["storage_prefix"])
        object_storage.share_settings(workflow.storage_provider_settings.get("s3"))
    preflight.check_known_rows(
        Path(f"results/{config['run']}/dataset/rows.report.json"),
        SETTINGS["dataset"],
        config["dataset"]["num_samples"],
    )
except UserError as fault:
    refuse(fault)


onstart:
    if workflow.is_main_process:
        check_gpus()
        if CONTAINERS:
            check_images()
        SNAPSHOT.parent.mkdir(exist_ok=True)
        SNAPSHOT.write_text(json.dumps(config, sort_keys=True))


OUT = f"results/{config['run']}"
LOGS, TIMES = f"{OUT}/logs", f"{OUT}/benchmarks"
DATASET, TARGET = f"{OUT}/dataset", EXTERNAL.target or f"{OUT}/target"
SHARDS = [
    f"{number:05d}"
    for number in range(
        math.ceil(config["dataset"]["num_samples"] / config["dataset"]["shard_size"])
    )
]
ROLLING = not config["hidden_states"]["keep"]
STAGES = Stages(
    len(SHARDS),
    config["hidden_states"]["window_shards"] or len(SHARDS),
    config["train"]["epochs"],
    config["train"]["epochs_per_stage"],
)
DEVICE = config["resources"]["device"]
BACKEND, CAPTURE = config["hidden_states"]["backend"], config["resources"]["capture"]
STORAGE = config["resources"]["storage_prefix"]
# in object storage the disk only holds what is being captured
DISK = (
    {"states_in_storage": True}
    if STORAGE
    else {"disk_budget_gb": config["resources"]["disk_budget_gb"]}
)
ENVIRONMENT = str(ROOT / "envs" / "eagle3.yaml")  # used with --sdm conda
CAPTURE_ENVIRONMENT = str(
    ROOT / "envs" / ("eagle3.yaml" if BACKEND == "hf" else "sglang.yaml")
)
# used with --sdm apptainer
IMAGES = config["resources"]["containers"]
CAPTURE_NAME = "eagle3" if BACKEND == "hf" else "sglang"
try:
    IMAGE = containers.image("eagle3", IMAGES["eagle3"], ROOT)
    CAPTURE_IMAGE = containers.image(CAPTURE_NAME, IMAGES[CAPTURE_NAME], ROOT)
    if CONTAINERS:
        read_there = (EXTERNAL.embedded_source, EXTERNAL.warm_start, TARGET)
        outside = [Source(path) for path in read_there if path]
        outside += [*EXTERNAL.sources, *(Source(path) for _, path in EXTERNAL.prompts)]
        hub = any(source.on_hub for source in outside)
        local = [source.place for source in outside if not source.on_hub]
        large = ["results", OUT, f"{OUT}/hidden_states"]
        large += [f"{OUT}/hidden_states/{split}" for split in ("train", "eval")]
        shown = containers.environment(
            [ROOT, *local, *large], hub=hub, cuda=DEVICE == "cuda"
        )
        os.environ.update(shown)
except UserError as fault:
    refuse(fault)
VERSIONS = preflight.stage_versions(ROOT / "rules" / "stage_versions.yaml")
# files of the target that a rule makes; a target from outside is known by its digest instead
TARGET_FILES = (
    [] if EXTERNAL.target else [f"{TARGET}/{name}" for name in preflight.EMBEDDED_FILES]
)


def gpus(count):
    """GPUs of a job; on a machine without, none are asked for."""
    return count if DEVICE == "cuda" else 0


def of_train(*names):
    """What resources.train says of some things."""
    return {name: config["resources"]["train"][name] for name in names}


GPUS_OF_JOBS = {
    "resources.capture.tensor_parallel": gpus(CAPTURE["tensor_parallel"]),
    "resources.train.processes": gpus(config["resources"]["train"]["processes"]),
}
limit_local_gpus(workflow, GPUS_OF_JOBS, os.environ)


def check_gpus():
    """This machine has the GPUs of the jobs to come; called before the first one."""
    try:
        check_local_gpus(workflow, GPUS_OF_JOBS, os.environ)
    except UserError as fault:
        refuse(fault)


def code(script):
    """Digest of a script and of all it imports."""
    return provenance.code_digest(ROOT / "workflow_scripts" / script, ROOT)


def version(stage):
    """Hand-kept version of a stage upstream of the hidden states."""
    return str(VERSIONS[stage]["version"])


def version_of_shard(stage):
    """The same for a stage of many shards. The shard is named because Snakemake's cache between
    workflows knows jobs by their params and not by their wildcards."""
    return lambda wildcards: f"{version(stage)}, {wildcards.split} {wildcards.shard}"


def offered_to_cache(name):
    """Snakemake refuses a benchmark beside its cache between workflows, since what comes from there
    took no time; so a rule has one only as long as --cache is not given."""
    if workflow.enable_cache:
        workflow.get_rule(name)._benchmark = None


def settings(stage):
    """The settings of a stage as the one text that its rule declares; a function, since Snakemake
    would read `{split}` in a text, such as a system prompt, as its wildcard."""
    return lambda wildcards: SETTINGS[stage].text


def check_images():
    """The images of the jobs to come are there; called before the first one."""
    try:
        for name, image in (("eagle3", IMAGE), (CAPTURE_NAME, CAPTURE_IMAGE)):
            if image in workflow.dag.container_imgs:
                containers.check_there(name, image, own=IMAGES[name] is None)
    except UserError as fault:
        refuse(fault)


wildcard_constraints:
    split="train|eval",
    shard=r"\d{5}",
    stage=r"\d{4}",


# scripts find the package from any directory, and the interpreter that runs Snakemake unless the
# job has an environment of its own
shell.prefix(preflight.shell_prefix(ROOT, bool(METHODS), CONTAINERS))
