"""The settings of every stage: the keys of the configuration that affect it, and its inputs."""

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
# keys of section `tokens` that matter when tokens and masks come with the states
IMPORTED_KEYS = ("max_length", "train_only_last_turn", *TEMPLATE_KEYS)
LOADING_KEYS = ("target.revision", "target.trust_remote_code")
# the list of formats affects none of them
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
    """Settings of every stage, each chained to those of its inputs.

    The table answers "what does this key re-run?": a key that no line names, such as everything
    under `resources`, re-runs nothing.
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
        embedded = {k: v for k, v in config["embedded_target"].items() if k != "source"}
        add_external("embedded_target", embedded_target=embedded, source=external.embedded_digest)
        by_stage["tokenizer"] = by_stage["weights"] = by_stage["embedded_target"]
    else:
        add_external("tokenizer", digest=external.tokenizer_digest)
        add_external("weights", digest=external.weights_digest)

    loading, weight_keys = LOADING_KEYS, ("target.embedding_key", "target.lm_head_key")
    dataset_keys, states_keys, dataset_inputs = _data_keys(imported, config, external)
    add("dataset", dataset_keys, dataset_inputs)
    answer_keys = ("dataset.regenerate", "dataset.shard_size", *TEMPLATES, "target.dtype", *loading)
    add("regenerate", answer_keys, ("dataset", "tokenizer", "weights"))
    regenerated = config["dataset"]["regenerate"]["backend"] != "none"
    rows = "regenerate" if regenerated else "dataset"
    token_keys = tuple(f"tokens.{key}" for key in IMPORTED_KEYS) if imported else ("tokens",)
    add("tokens", (*token_keys, "dataset.shard_size", *loading), (rows, "tokenizer"))
    add("vocab", ("vocab", "dataset.shards", *loading), ("tokens",))
    windows = ("dataset.shards", "hidden_states.window_shards")
    schedule_keys = (*(f"train.{key}" for key in PACKING_KEYS), *windows)
    add("schedule", schedule_keys, ("tokens",))
    add("hidden_states", (*states_keys, "target.dtype", *loading), ("tokens", "weights"))
    add_external("warm_start", digest=external.warm_start_digest)
    # the initial draft is identified by its content
    train_keys = tuple(f"train.{key}" for key in config["train"] if key != "warm_start")
    # the values in the file of the draft's configuration count, not its name
    draft_keys = tuple(f"draft.{key}" for key in config["draft"] if key != "config")
    stage_keys = (*train_keys, *draft_keys, "hidden_states.aux_layers", "target.final_norm_key")
    # a stage then depends on the scores of earlier stages, or scores itself
    if any(config["train"][key] is not None for key in ("early_stop_patience", SCORED_INSIDE)):
        stage_keys += SCORING
    add(
        "train",
        (*stage_keys, *loading, *weight_keys, "dataset.shards"),
        ("tokens", "hidden_states", "vocab", "schedule", "warm_start"),
    )
    add("score", (*SCORING, *loading, *weight_keys), ("tokens", "hidden_states", "vocab", "train"))
    best = ("score",) if config["export"]["checkpoint"] == "best" else ()
    for form, keys in EXPORT_KEYS.items():
        add(f"export_{form}", ("export.checkpoint", *keys), ("train", "vocab", *best))
    by_stage["export"] = by_stage[f"export_{config['export']['formats'][0]}"]  # what is evaluated
    add(
        "evaluate",
        (*DECODING, *TEMPLATES, *loading, *weight_keys),
        ("export", "dataset", "weights", "prompts"),
    )
    plan_keys = ("hidden_states", *draft_keys, "vocab", "hardware", *PLANNED, SCORING[2])
    add("plan", (*plan_keys, *loading), ("tokens", "schedule", "vocab"))
    everything = tuple(key for key in config if key != "resources")
    report_inputs = ("dataset", "tokens", "vocab", "hidden_states", "score", "evaluate", "plan")
    add("report", everything, report_inputs)
    return by_stage


def _data_keys(
    imported: bool, config: Mapping[str, Any], external: External
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Keys of the stages `dataset` and `hidden_states`, and the inputs of the former."""
    # the embedding is read as the head only if the target's files have no head
    tied = ("target.embedding_key",) if external.tied is not False else ()
    head, norm = (*tied, "target.lm_head_key"), ("target.final_norm_key",)
    if not imported:
        states = tuple(f"hidden_states.{key}" for key in ("aux_layers", "backend", "codec"))
        reads_norm = ENGINES[config["hidden_states"]["backend"]].reads_final_norm
        capture_keys = (*states, *head, *(norm if reads_norm else ()))
        return tuple(f"dataset.{key}" for key in SOURCE_KEYS), capture_keys, ("source",)
    # how states are read from the files and compared with those of the target
    reader = ("hidden_states.aux_layers", "hidden_states.source", *norm, *head)
    check_keys = (*reader, "target.dtype", *LOADING_KEYS, *TEMPLATES)
    return (
        ("dataset.seed", "dataset.eval_fraction", *check_keys),
        ("hidden_states.codec", *reader),
        ("source", "tokenizer", "weights"),
    )


def _effective(config: Mapping[str, Any], target_dtype: str | None) -> dict[str, Any]:
    """The part of the configuration that affects an output. `target_dtype`: the type that `auto`
    was resolved to."""
    target = dict(config["target"])
    target["dtype"] = target_dtype or target["dtype"]
    dataset = dict(config["dataset"])
    dataset.pop("max_bad_fraction")  # decides whether a stage fails, never what it writes
    # whole shards: with 128 samples in each, 200 and 256 samples are the same two
    dataset["shards"] = math.ceil(dataset.pop("num_samples") / dataset["shard_size"])
    evaluation = dict(config["evaluation"])
    held_out = evaluation.pop("held_out_samples")
    held_out_shard = min(dataset["shard_size"], HELD_OUT_SHARD)
    evaluation["held_out_shards"] = math.ceil(held_out / held_out_shard)
    states = dict(config["hidden_states"])
    # a window larger than all shards is the same as one of all shards
    states["window_shards"] = min(states["window_shards"] or math.inf, dataset["shards"])
    source = states.pop("source")
    if source["kind"] in IMPORTED:
        # files are identified by their digest; no engine runs
        states["source"] = {key: source[key] for key in ("kind", "check_template")}
        del states["backend"]
    changed = {"dataset": dataset, "hidden_states": states, "evaluation": evaluation}
    # for the report, which names the folder
    effective = {**config, "target": target, **changed}
    return effective | ({"states_from": source} if source["path"] or source["dataset"] else {})
