"""The settings of every stage: which keys of the configuration reach it, and what lies above it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from eagle3.artifact import Settings
from rules.preflight import External
from rules.provenance import chained

TEMPLATE_KEYS = ("chat_template", "chat_template_options", "system_prompt")


def all_settings(config: Mapping[str, Any], external: External) -> dict[str, Settings]:
    """Settings of every stage, chained from the outside in.

    This table is the answer to "what does this key re-run?": a key that no line names, such as
    everything under `resources`, re-runs nothing.
    """
    found: dict[str, Settings] = {}
    config = _effective(config)

    def add(stage: str, keys: tuple[str, ...], upstream: tuple[str, ...]) -> None:
        found[stage] = chained(stage, config, keys, {name: found[name] for name in upstream})

    def add_external(stage: str, **values: Any) -> None:
        found[stage] = Settings(stage, values, {})

    add_external("source", digest=external.source_digest)
    if external.target is None:
        tiny = {k: v for k, v in config["embedded_target"].items() if k != "source"}
        add_external("embedded_target", embedded_target=tiny, source=external.embedded_digest)
        found["tokenizer"] = found["weights"] = found["embedded_target"]
    else:
        add_external("tokenizer", digest=external.tokenizer_digest)
        add_external("weights", digest=external.weights_digest)

    source_keys = ("subset", "split", "revision", "seed", "eval_fraction", "deduplicate")
    loading = ("target.revision", "target.trust_remote_code")
    reading = ("target.embedding_key", "target.lm_head_key")
    templates = tuple(f"tokens.{key}" for key in TEMPLATE_KEYS)
    packing = ("pack_tokens", "packs_per_batch", "epochs", "epochs_per_stage", "seed")
    states = tuple(f"hidden_states.{key}" for key in ("aux_layers", "backend", "codec"))
    add("dataset", tuple(f"dataset.{key}" for key in source_keys), ("source",))
    asking = ("dataset.regenerate", "dataset.shard_size", *templates, "target.dtype", *loading)
    add("regenerate", asking, ("dataset", "tokenizer", "weights"))
    answered = config["dataset"]["regenerate"]["backend"] != "none"
    rows = "regenerate" if answered else "dataset"
    add("tokens", ("tokens", "dataset.shard_size", *loading), (rows, "tokenizer"))
    add("vocab", ("vocab", "dataset.shards", *loading), ("tokens",))
    windows = ("dataset.shards", "hidden_states.window_shards")
    schedule = (*(f"train.{key}" for key in packing), *windows)
    add("schedule", schedule, ("tokens",))
    capture = (*states, "target.dtype", *loading, *reading)
    add("hidden_states", capture, ("tokens", "weights"))
    train = ("train", "draft", "hidden_states.aux_layers", "target.final_norm_key")
    add(
        "train",
        (*train, *loading, *reading, "dataset.shards"),
        ("tokens", "hidden_states", "vocab", "schedule"),
    )
    add("export", ("export",), ("train", "vocab"))
    add(
        "evaluate",
        ("evaluation", *templates, *loading, *reading),
        ("export", "dataset", "weights"),
    )
    length = ("train.ttt_steps", "train.epochs", "train.epochs_per_stage")
    doubted = ("train.learning_rate", "train.pack_tokens", "train.packs_per_batch")
    plan = ("hidden_states", "draft", "vocab", "hardware", *length, *doubted)
    add("plan", (*plan, *loading), ("tokens", "schedule", "vocab"))
    everything = tuple(key for key in config if key != "resources")
    shown = ("dataset", "tokens", "vocab", "hidden_states", "evaluate", "plan")
    add("report", everything, shown)
    return found


def _effective(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration as far as it changes an output."""
    dataset = dict(config["dataset"])
    dataset.pop("max_bad_fraction")  # decides whether a stage fails, never what it writes
    # samples are counted in whole shards: 760 and 768 of them are the same four
    dataset["shards"] = math.ceil(dataset.pop("num_samples") / dataset["shard_size"])
    states = dict(config["hidden_states"])
    # a window of all shards, and one larger than that, are the same
    states["window_shards"] = min(states["window_shards"] or math.inf, dataset["shards"])
    return {**config, "dataset": dataset, "hidden_states": states}
