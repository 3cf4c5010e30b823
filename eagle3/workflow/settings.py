"""The settings of every stage: which keys of the configuration reach it, and what lies above it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from eagle3.draft.config_file import resolved
from eagle3.files.artifact import Settings
from eagle3.run import External
from eagle3.workflow.provenance import chained

TEMPLATE_KEYS = ("chat_template", "chat_template_options", "system_prompt")
LOADING_KEYS = ("target.revision", "target.trust_remote_code")
# which forms there are changes none of them
WITH_EMBEDDING = ("export.dtype", "export.embedding", "target.embedding_key", *LOADING_KEYS)
NAMING_TARGET = ("export.verifier", "target.model", "evaluation.num_draft_tokens")
EXPORT_KEYS = {
    "sglang": ("export.dtype",),
    "vllm": WITH_EMBEDDING,
    "speculators": (*WITH_EMBEDDING, *NAMING_TARGET),
    "hf": WITH_EMBEDDING,
}
SOURCE_KEYS = ("subset", "split", "revision", "seed", "eval_fraction", "deduplicate")
PACKING_KEYS = ("pack_tokens", "packs_per_batch", "epochs", "epochs_per_stage", "seed")
PLANNED = (
    *("train.ttt_steps", "train.epochs", "train.epochs_per_stage"),
    *("train.learning_rate", "train.pack_tokens", "train.packs_per_batch"),
)
SCORING = ("evaluation.num_draft_tokens", "evaluation.dtype", "evaluation.held_out_shards")
DECODING = (
    *SCORING[:2],
    "evaluation.num_prompts",
    "evaluation.max_new_tokens",
    "evaluation.temperature",
)


def all_settings(config: Mapping[str, Any], external: External) -> dict[str, Settings]:
    """Settings of every stage, chained from the outside in.

    This table is the answer to "what does this key re-run?": a key that no line names, such as
    everything under `resources`, re-runs nothing.
    """
    by_stage: dict[str, Settings] = {}
    config = _effective(resolved(config, external.draft_config), external.target_dtype)

    def add(stage: str, keys: tuple[str, ...], upstream: tuple[str, ...]) -> None:
        by_stage[stage] = chained(stage, config, keys, {name: by_stage[name] for name in upstream})

    def add_external(stage: str, **values: Any) -> None:
        by_stage[stage] = Settings(stage, values, {})

    add_external("source", digest=external.source_digest)
    add_external("prompts", digest=external.prompts_digest)
    if external.target is None:
        tiny = {k: v for k, v in config["embedded_target"].items() if k != "source"}
        add_external("embedded_target", embedded_target=tiny, source=external.embedded_digest)
        by_stage["tokenizer"] = by_stage["weights"] = by_stage["embedded_target"]
    else:
        add_external("tokenizer", digest=external.tokenizer_digest)
        add_external("weights", digest=external.weights_digest)

    loading = LOADING_KEYS
    reading = ("target.embedding_key", "target.lm_head_key")
    templates = tuple(f"tokens.{key}" for key in TEMPLATE_KEYS)
    states = tuple(f"hidden_states.{key}" for key in ("aux_layers", "backend", "codec"))
    add("dataset", tuple(f"dataset.{key}" for key in SOURCE_KEYS), ("source",))
    asking = ("dataset.regenerate", "dataset.shard_size", *templates, "target.dtype", *loading)
    add("regenerate", asking, ("dataset", "tokenizer", "weights"))
    answered = config["dataset"]["regenerate"]["backend"] != "none"
    rows = "regenerate" if answered else "dataset"
    add("tokens", ("tokens", "dataset.shard_size", *loading), (rows, "tokenizer"))
    add("vocab", ("vocab", "dataset.shards", *loading), ("tokens",))
    windows = ("dataset.shards", "hidden_states.window_shards")
    schedule = (*(f"train.{key}" for key in PACKING_KEYS), *windows)
    add("schedule", schedule, ("tokens",))
    # the head of a target whose files hold one is read without the embedding
    head = reading if external.tied is not False else reading[1:]
    add("hidden_states", (*states, "target.dtype", *loading, *head), ("tokens", "weights"))
    add_external("warm_start", digest=external.warm_start_digest)
    # a draft to start from is known by its content
    own = tuple(f"train.{key}" for key in config["train"] if key != "warm_start")
    # a file of the draft's configuration is known by what it says
    shape = tuple(f"draft.{key}" for key in config["draft"] if key != "config")
    train = (*own, *shape, "hidden_states.aux_layers", "target.final_norm_key")
    if config["train"]["early_stop_patience"] is not None:
        train += SCORING  # a stage then depends on the scores of those before
    add(
        "train",
        (*train, *loading, *reading, "dataset.shards"),
        ("tokens", "hidden_states", "vocab", "schedule", "warm_start"),
    )
    add("score", (*SCORING, *loading, *reading), ("tokens", "hidden_states", "vocab", "train"))
    chosen = ("score",) if config["export"]["checkpoint"] == "best" else ()
    for form, keys in EXPORT_KEYS.items():
        add(f"export_{form}", ("export.checkpoint", *keys), ("train", "vocab", *chosen))
    by_stage["export"] = by_stage[f"export_{config['export']['formats'][0]}"]  # what is evaluated
    add(
        "evaluate",
        (*DECODING, *templates, *loading, *reading),
        ("export", "dataset", "weights", "prompts"),
    )
    plan = ("hidden_states", *shape, "vocab", "hardware", *PLANNED, SCORING[2])
    add("plan", (*plan, *loading), ("tokens", "schedule", "vocab"))
    everything = tuple(key for key in config if key != "resources")
    reported = ("dataset", "tokens", "vocab", "hidden_states", "score", "evaluate", "plan")
    add("report", everything, reported)
    return by_stage


def _effective(config: Mapping[str, Any], target_dtype: str | None) -> dict[str, Any]:
    """The configuration as far as it changes an output. `target_dtype`: what `auto` was settled
    to."""
    target = dict(config["target"])
    target["dtype"] = target_dtype or target["dtype"]
    dataset = dict(config["dataset"])
    dataset.pop("max_bad_fraction")  # decides whether a stage fails, never what it writes
    # samples are counted in whole shards: 760 and 768 of them are the same four
    dataset["shards"] = math.ceil(dataset.pop("num_samples") / dataset["shard_size"])
    evaluation = dict(config["evaluation"])
    held_out = evaluation.pop("held_out_samples")
    evaluation["held_out_shards"] = math.ceil(held_out / dataset["shard_size"])
    states = dict(config["hidden_states"])
    # a window of all shards, and one larger than that, are the same
    states["window_shards"] = min(states["window_shards"] or math.inf, dataset["shards"])
    changed = {"dataset": dataset, "hidden_states": states, "evaluation": evaluation}
    return {**config, "target": target, **changed}
