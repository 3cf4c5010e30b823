"""The settings of every stage: which keys of the configuration reach it, and what lies above it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from eagle3.config.dataset import HELD_OUT_SHARD
from eagle3.config.hidden_states import IMPORTED
from eagle3.draft.config_file import resolved
from eagle3.engines.table import ENGINES
from eagle3.files.artifact import Settings
from eagle3.run import External
from eagle3.workflow.provenance import chained

TEMPLATE_KEYS = ("chat_template", "chat_template_options", "system_prompt")
TEMPLATES = tuple(f"tokens.{key}" for key in TEMPLATE_KEYS)
# of section `tokens`, where tokens and masks come with the states
IMPORTED_KEYS = ("max_length", "train_only_last_turn", *TEMPLATE_KEYS)
LOADING_KEYS = ("target.revision", "target.trust_remote_code")
# which forms there are changes none of them
WITH_EMBEDDING = ("export.dtype", "export.embedding", "target.embedding_key", *LOADING_KEYS)
NAMING_TARGET = ("export.verifier", "target.model", "evaluation.num_speculative_tokens")
EXPORT_KEYS = {
    "sglang": ("export.dtype",),
    "vllm": WITH_EMBEDDING,
    "speculators": (*WITH_EMBEDDING, *NAMING_TARGET),
    "hf": WITH_EMBEDDING,
}
SOURCE_KEYS = ("subset", "split", "revision", "seed", "eval_fraction", "deduplicate")
PACKING_KEYS = (
    *("pack_tokens", "packs_per_batch", "epochs", "epochs_per_stage", "max_steps"),
    "seed",
)
PLANNED = (
    *("train.ttt_steps", "train.epochs", "train.epochs_per_stage", "train.max_steps"),
    *("train.learning_rate", "train.pack_tokens", "train.packs_per_batch", "train.precision"),
    "train.optimizer",
)
SCORING = ("evaluation.num_speculative_tokens", "evaluation.dtype", "evaluation.held_out_shards")
SCORED_INSIDE = "score_every_steps"
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

    imported = config["hidden_states"].get("source") is not None  # from another project
    content = external.states.digest if imported and external.states else external.source_digest
    add_external("source", digest=content)
    add_external("prompts", digest=external.prompts_digest)
    if external.target is None:
        tiny = {k: v for k, v in config["embedded_target"].items() if k != "source"}
        add_external("embedded_target", embedded_target=tiny, source=external.embedded_digest)
        by_stage["tokenizer"] = by_stage["weights"] = by_stage["embedded_target"]
    else:
        add_external("tokenizer", digest=external.tokenizer_digest)
        add_external("weights", digest=external.weights_digest)

    loading, reading = LOADING_KEYS, ("target.embedding_key", "target.lm_head_key")
    data, states, above = _data_keys(imported, config, external)
    add("dataset", data, above)
    asking = ("dataset.regenerate", "dataset.shard_size", *TEMPLATES, "target.dtype", *loading)
    add("regenerate", asking, ("dataset", "tokenizer", "weights"))
    answered = config["dataset"]["regenerate"]["backend"] != "none"
    rows = "regenerate" if answered else "dataset"
    masking = tuple(f"tokens.{key}" for key in IMPORTED_KEYS) if imported else ("tokens",)
    add("tokens", (*masking, "dataset.shard_size", *loading), (rows, "tokenizer"))
    add("vocab", ("vocab", "dataset.shards", *loading), ("tokens",))
    windows = ("dataset.shards", "hidden_states.window_shards")
    schedule = (*(f"train.{key}" for key in PACKING_KEYS), *windows)
    add("schedule", schedule, ("tokens",))
    add("hidden_states", (*states, "target.dtype", *loading), ("tokens", "weights"))
    add_external("warm_start", digest=external.warm_start_digest)
    # a draft to start from is known by its content
    own = tuple(f"train.{key}" for key in config["train"] if key != "warm_start")
    # a file of the draft's configuration is known by what it says
    shape = tuple(f"draft.{key}" for key in config["draft"] if key != "config")
    train = (*own, *shape, "hidden_states.aux_layers", "target.final_norm_key")
    # a stage then depends on the scores of those before, or scores itself
    if any(config["train"][key] is not None for key in ("early_stop_patience", SCORED_INSIDE)):
        train += SCORING
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
        (*DECODING, *TEMPLATES, *loading, *reading),
        ("export", "dataset", "weights", "prompts"),
    )
    plan = ("hidden_states", *shape, "vocab", "hardware", *PLANNED, SCORING[2])
    add("plan", (*plan, *loading), ("tokens", "schedule", "vocab"))
    everything = tuple(key for key in config if key != "resources")
    reported = ("dataset", "tokens", "vocab", "hidden_states", "score", "evaluate", "plan")
    add("report", everything, reported)
    return by_stage


def _data_keys(
    imported: bool, config: Mapping[str, Any], external: External
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Keys of the stage `dataset`, of `hidden_states`, and the stages above the former."""
    # the head of a target whose files hold one is read without the embedding
    tied = ("target.embedding_key",) if external.tied is not False else ()
    head, norm = (*tied, "target.lm_head_key"), ("target.final_norm_key",)
    if not imported:
        states = tuple(f"hidden_states.{key}" for key in ("aux_layers", "backend", "codec"))
        normed = ENGINES[config["hidden_states"]["backend"]].reads_final_norm
        read = (*states, *head, *(norm if normed else ()))
        return tuple(f"dataset.{key}" for key in SOURCE_KEYS), read, ("source",)
    # how the states in the files are read, and compared with those of the target
    reader = ("hidden_states.aux_layers", "hidden_states.source", *norm, *head)
    compared = (*reader, "target.dtype", *LOADING_KEYS, *TEMPLATES)
    return (
        ("dataset.seed", "dataset.eval_fraction", *compared),
        ("hidden_states.codec", *reader),
        ("source", "tokenizer", "weights"),
    )


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
    held_out_shard = min(dataset["shard_size"], HELD_OUT_SHARD)
    evaluation["held_out_shards"] = math.ceil(held_out / held_out_shard)
    states = dict(config["hidden_states"])
    # a window of all shards, and one larger than that, are the same
    states["window_shards"] = min(states["window_shards"] or math.inf, dataset["shards"])
    source = states.pop("source")
    if source["kind"] in IMPORTED:
        # files are known by their digest; no engine runs
        states["source"] = {key: source[key] for key in ("kind", "check_template")}
        del states["backend"]
    changed = {"dataset": dataset, "hidden_states": states, "evaluation": evaluation}
    # for the report, which names the folder
    whole = {**config, "target": target, **changed}
    return whole | ({"states_from": source} if source["path"] or source["dataset"] else {})
