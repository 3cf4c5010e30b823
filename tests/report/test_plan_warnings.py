"""What the plan says about settings that are legal and unlike all published ones."""

from __future__ import annotations

from typing import Any

import pytest

from eagle3.report.plan_warnings import idle_stages, plan_warnings

TRAIN = {"learning_rate": 1e-4, "pack_tokens": 4096, "packs_per_batch": 8}
USUAL = {"hidden_size": 4096, "total_steps": 5000, "tokens": 1000, "supervised": 600}


@pytest.mark.parametrize(
    "train",
    [
        {"learning_rate": 5e-5, "pack_tokens": 2048, "packs_per_batch": 2},  # EAGLE
        {"learning_rate": 1e-4, "pack_tokens": 2048, "packs_per_batch": 8},  # SpecForge
        {"learning_rate": 6e-4, "pack_tokens": 4096, "packs_per_batch": 64},  # DeepSpec
        TRAIN,
    ],
)
def test_published_trainings_raise_no_doubt(train: dict[str, Any]) -> None:
    assert plan_warnings(train, **USUAL) == []


@pytest.mark.parametrize(
    ("train", "run", "said"),
    [
        ({"learning_rate": 8e-3}, {}, "train.learning_rate is 8.0e-03 for batches of 32768 tokens"),
        ({"learning_rate": 1e-6}, {}, "train.learning_rate is 1.0e-06"),
        ({"packs_per_batch": 4096}, {}, "train.learning_rate is 1.0e-04 for batches of 16777216"),
        ({}, {"total_steps": 20}, "20 optimiser steps"),
        ({}, {"total_steps": 20}, "raise dataset.num_samples or train.epochs"),
        ({"max_steps": 20}, {"total_steps": 20}, "to learn much: raise train.max_steps"),
        ({}, {"supervised": 3}, "0.3% of the tokens are supervised"),
        ({}, {"supervised": 999}, "99.9% of the tokens are supervised"),
        ({}, {"tokens": 0, "supervised": 0}, "0.0% of the tokens are supervised"),
    ],
)
def test_each_doubt_is_a_sentence_of_its_own(
    train: dict[str, Any], run: dict[str, int], said: str
) -> None:
    [result] = plan_warnings(TRAIN | train, **(USUAL | run))
    assert said in result


def schedule(*steps: int, all_steps: int) -> dict[str, Any]:
    first = [sum(steps[:number]) for number in range(len(steps))]
    stages = [{"first_step": a, "steps": n} for a, n in zip(first, steps, strict=True)]
    return {"total_steps": sum(steps), "all_steps": all_steps, "stages": stages}


def test_stages_that_a_limit_leaves_without_a_step_are_counted() -> None:
    assert idle_stages(schedule(5, 5, 5, all_steps=15)) == []
    assert idle_stages(schedule(5, 0, 5, all_steps=10)) == []  # a window without a row
    assert idle_stages(schedule(5, 5, 3, all_steps=15)) == []
    [said] = idle_stages(schedule(5, 2, 0, all_steps=15))
    assert "ends the training in stage 2 of 3; the others" in said
    [said] = idle_stages(schedule(5, 0, 0, all_steps=15))
    assert "in stage 1 of 3" in said


def test_toys_may_learn_at_any_rate() -> None:
    run = USUAL | {"hidden_size": 128, "total_steps": 9}
    assert plan_warnings(TRAIN | {"learning_rate": 8e-3}, **run) == []
