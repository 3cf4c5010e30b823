# Where everything lies that several rules name: the only place, with the head of common.smk, that
# knows what lies under results/.
# Answers of the target for a shard, and the report that vouches for them.
ANSWERED = config["dataset"]["regenerate"]["backend"] != "none"
ANSWERS = [
    f"{OUT}/answers/{{split}}/shard-{{shard}}.{suffix}"
    for suffix in ("jsonl", "report.json")
]
# Hidden states of a shard, without suffix. In rolling mode each stage has a copy of its own.
CAPTURED = "{split}/stage-{stage}/shard-{shard}" if ROLLING else "{split}/shard-{shard}"


def stored(path, retrieve=True, temporary=False):
    """Where a large file lies: the path itself, or the object of that name in object storage.

    With `retrieve` Snakemake gives jobs a copy and uploads what they write; without, they are given
    the address of the object.
    """
    if not STORAGE:
        return temp(path) if temporary else path
    address = f"{STORAGE}/{path}"
    # marked before it becomes an object: `temp` takes none, though Snakemake removes them all right
    return storage.s3(temp(address) if temporary else address, retrieve=retrieve)


# Long lists of inputs are given as functions: of a list itself, Snakemake hashes all of it once for
# each of its files, which takes minutes with thousands of shards.
def token_shards(wildcards):
    """Token shards of training, in order."""
    return [f"{OUT}/tokens/train/shard-{shard}.safetensors" for shard in SHARDS]


def window_tokens(wildcards):
    """Token shards of a stage's window, in order."""
    every = token_shards(wildcards)
    return [every[number] for number in STAGES.shards_of(int(wildcards.stage))]


def captured(stage, suffix):
    """Files of the capture that a stage's window is made of, in order."""
    names = [SHARDS[number] for number in STAGES.shards_of(stage)]
    folder = f"{OUT}/hidden_states/{CAPTURED}{suffix}"
    return expand(folder, split="train", stage=f"{stage:04d}", shard=names)


def window_states(wildcards):
    """Hidden-state shards of a stage's window, in order."""
    paths = captured(int(wildcards.stage), ".safetensors")
    return [stored(path, retrieve=False) for path in paths]


def listed_states(wildcards):
    """The same as a job is told of them."""
    place = f"{STORAGE}/" if STORAGE else ""
    return place + listed(captured(int(wildcards.stage), ".safetensors"))


def capture_stages():
    """Stages whose windows were captured: every one in rolling mode, else those of one round."""
    return STAGES.numbers if ROLLING else range(1, STAGES.windows + 1)


def capture_checks(wildcards):
    """What the self-check of each captured shard found, in order."""
    return [
        path for stage in capture_stages() for path in captured(stage, ".check.json")
    ]


def stage_metrics(wildcards):
    """Metrics of every stage, in order."""
    return [f"{OUT}/metrics/stage-{stage:04d}.jsonl" for stage in STAGES.numbers]


def checkpoint(stage):
    """Folder of a stage's checkpoint."""
    return f"{OUT}/checkpoints/stage-{int(stage):04d}"


def previous_checkpoint(wildcards):
    """Files of the stage before, none for the first."""
    stage = int(wildcards.stage)
    if stage == 1:
        return []
    names = ("model.safetensors", "optimizer.safetensors", "state.json")
    return [stored(f"{checkpoint(stage - 1)}/{name}") for name in names]


def window_gate(wildcards):
    """Rolling mode: the window of a stage waits until the stage two before it is trained."""
    if int(wildcards.stage) <= 2:
        return []
    return stored(f"{checkpoint(int(wildcards.stage) - 2)}/model.safetensors")


def capture_priority(wildcards):
    """Windows in the order of their stages; training and what is cheap go before any capture."""
    if ROLLING:
        return -int(wildcards.stage)
    return -STAGES.first_reader(int(wildcards.shard))


HELD_OUT = [
    f"{number:05d}"
    for number in range(
        math.ceil(
            config["evaluation"]["held_out_samples"] / config["dataset"]["shard_size"]
        )
    )
]


def held_out(folder):
    """Shards of the held-out split under a folder, in order."""
    return [f"{OUT}/{folder}/eval/shard-{shard}.safetensors" for shard in HELD_OUT]


def stage_scores(wildcards):
    """What held-out states say of every stage, in order."""
    return [f"{OUT}/evaluation/stage-{stage:04d}.json" for stage in STAGES.numbers]


def candidates(name):
    """A file of every stage's checkpoint, in order."""
    return [f"{checkpoint(stage)}/{name}" for stage in STAGES.numbers]


def unmoved(paths):
    """The same as inputs; objects stay where they are."""
    return [stored(path, retrieve=False) for path in paths]


def told(paths):
    """The same as a job is told of them."""
    return (f"{STORAGE}/" if STORAGE else "") + listed(paths)


def exported(name):
    """A file of the checkpoint that is exported."""
    if config["export"]["checkpoint"] == "best":
        return stored(f"{OUT}/checkpoints/best/{name}")
    return stored(f"{checkpoint(STAGES.count)}/{name}")


def scores_before(wildcards):
    """With early stop: what held-out states say of the stages before."""
    if config["train"]["early_stop_patience"] is None:
        return []
    earlier = range(1, int(wildcards.stage))
    return [f"{OUT}/evaluation/stage-{stage:04d}.json" for stage in earlier]


FORMS = config["export"]["formats"]  # the first is what the evaluation decodes with


def forms(names, file):
    """A file of the drafts in some forms."""
    return [f"{OUT}/draft/{form}/{file}" for form in names]


def form_settings(names):
    """The settings of some forms as one text."""
    found = {form: asdict(SETTINGS[f"export_{form}"]) for form in names}
    return lambda wildcards: json.dumps(found, sort_keys=True)
