"""Warnings about valid configurations that look wrong, printed by the plan before they cost hours.

The ranges are those of published trainings of EAGLE-3 drafts with AdamW: peak rates of 5e-5
(EAGLE) and 1e-4 (SpecForge) for batches of some thousand tokens, up to 6e-4 for batches of 512
samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eagle3.config.configuration import Config
from eagle3.objective.memory import USABLE

# a published pair; the rate grows with the square root of the batch
RATE, BATCH_TOKENS = 1e-4, 16_384
FACTOR = 8.0  # no published rate is further from it
REAL_HIDDEN = 1024  # narrower targets are toys, which need higher rates
FEW_STEPS = 200
SUPERVISED = (0.02, 0.98)
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def plan_warnings(
    train: Mapping[str, Any], hidden_size: int, total_steps: int, tokens: int, supervised: int
) -> list[str]:
    """Warnings about a run; empty for a usual one. `train`: the section of the configuration;
    `tokens` and `supervised`: counts over all token shards."""
    sentences = []
    share = supervised / max(tokens, 1)
    if not SUPERVISED[0] <= share <= SUPERVISED[1]:
        sentences.append(
            f"{share:.1%} of the tokens are supervised; {SUPERVISED[0]:.0%} to {SUPERVISED[1]:.0%} "
            "are usual: look at them with `eagle3 masks`"
        )
    if hidden_size < REAL_HIDDEN:
        return sentences
    batch = train["pack_tokens"] * train["packs_per_batch"]
    usual, rate = RATE * (batch / BATCH_TOKENS) ** 0.5, train["learning_rate"]
    if not usual / FACTOR <= rate <= usual * FACTOR:
        sentences.append(
            f"train.learning_rate is {rate:.1e} for batches of {batch} tokens (pack_tokens x "
            f"packs_per_batch), {max(rate / usual, usual / rate):.0f} times "
            f"{'higher' if rate > usual else 'lower'} than published trainings use, {usual:.1e}"
        )
    if total_steps < FEW_STEPS:
        limited = train.get("max_steps") == total_steps
        remedy = "dataset.num_samples or train.epochs, or lower train.packs_per_batch"
        sentences.append(
            f"the run has {total_steps} optimiser steps, too few for a draft to learn much: raise "
            + ("train.max_steps" if limited else remedy)
        )
    return sentences


def memory_doubt(plan: Mapping[str, Any], pack_tokens: int) -> list[str]:
    """A warning if a training step should not fit into a GPU of `hardware.memory_gb`."""
    fits = plan["largest_pack"]
    if fits is None or fits >= pack_tokens:
        return []
    return [
        f"training should need {plan['bytes_training'] / 1e9:.0f} GB of a GPU at packs of "
        f"{pack_tokens} tokens, more than hardware.memory_gb leaves: "
        + (
            f"train.pack_tokens of at most {fits} should fit"
            if fits
            else "weights and optimiser state alone are too large (data_parallel fsdp2 shares them)"
        )
    ]


def target_doubts(
    weights: int | None, stored: str | None, config: Config, memory_gb: float | None
) -> list[str]:
    """Warnings if the target should not fit into the GPUs of its jobs, of `memory_gb` each.

    `weights`: its bytes, None if unknown. `stored`: their type, None if they are quantised and
    stay so.
    """
    ranks = config.resources.capture.tensor_parallel
    if weights is None or memory_gb is None or config.resources.device == "cpu":
        return []
    room = USABLE * memory_gb * 1e9 * ranks
    growth = BYTES[config.evaluation.dtype] / BYTES.get(stored, 2) if stored else 1.0
    doubts = []
    for job, needed, remedy in (
        ("capture", weights, "raise resources.capture.tensor_parallel"),
        (
            f"evaluate (evaluation.dtype {config.evaluation.dtype})",
            growth * weights,
            "set evaluation.dtype to bfloat16, or raise resources.capture.tensor_parallel",
        ),
    ):
        if needed > room:
            doubts.append(
                f"{job}: the target's weights take {needed / 1e9:.0f} GB, more than {ranks} "
                f"GPU{'s' * (ranks > 1)} of hardware.memory_gb {memory_gb:g} hold: {remedy}"
            )
    return doubts


def idle_arguments(config: Config) -> list[str]:
    """Warnings about arguments of an engine that does not capture."""
    backend, capture = config.hidden_states.backend, config.resources.capture
    arguments = {"sglang": capture.sglang_arguments, "vllm": capture.vllm_arguments}
    return [
        f"resources.capture.{engine}_arguments have no effect: hidden_states.backend is {backend}"
        for engine, values in arguments.items()
        if values and engine != backend
    ]


def idle_stages(schedule: Mapping[str, Any]) -> list[str]:
    """A warning if `train.max_steps` leaves stages without a step: the DAG is planned before steps
    are counted, so these stages are captured and scored all the same."""
    stages, last_step = schedule["stages"], schedule["total_steps"] - 1
    used = sum(stage["first_step"] <= last_step for stage in stages)
    if schedule["total_steps"] == schedule["all_steps"] or used == len(stages):
        return []
    return [
        f"train.max_steps ends the training in stage {used} of {len(stages)}; the others pass its "
        "checkpoint on and are scored all the same (in rolling mode their windows are captured "
        "too): lower train.epochs or dataset.num_samples"
    ]
