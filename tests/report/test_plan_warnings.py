"""What the plan says about settings that are legal and unlike all published ones."""

from __future__ import annotations

from typing import Any

import pytest

from eagle3.report.plan_warnings import plan_warnings

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


def test_toys_may_learn_at_any_rate() -> None:
    run = USUAL | {"hidden_size": 128, "total_steps": 9}
    assert plan_warnings(TRAIN | {"learning_rate": 8e-3}, **run) == []
