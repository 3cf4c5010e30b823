"""A name that the configuration allows is one that the library knows, and the other way round."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from eagle3.config.evaluation import Export
from eagle3.config.hidden_states import HiddenStates
from eagle3.config.target import EmbeddedTarget, Target
from eagle3.config.tokens import TemplateName
from eagle3.config.train import Train
from eagle3.data.template_names import NAMED
from eagle3.objective.dispatch import BACKENDS
from eagle3.objective.losses import LOSSES
from eagle3.store.codecs import CODECS
from eagle3.store.columns import STORED


def choices(model: Any, key: str) -> set[str]:
    return set(get_args(model.model_fields[key].annotation))


@pytest.mark.parametrize(
    ("allowed", "known"),
    [
        (choices(Train, "loss"), LOSSES),
        (choices(Train, "attention_backend"), {"auto", "usp", *BACKENDS}),
        (choices(HiddenStates, "codec"), CODECS),
        (choices(HiddenStates, "codec"), STORED),
        (get_args(TemplateName), {"auto", "generation", *NAMED}),
    ],
)
def test_the_names_are_the_same(allowed: Any, known: Any) -> None:
    assert set(allowed) == set(known)


def test_every_precision_is_one_of_torch() -> None:
    import torch

    models = (Target, EmbeddedTarget, Export)
    for names in (choices(model, "dtype") - {"auto"} for model in models):
        assert all(isinstance(getattr(torch, name), torch.dtype) for name in names)
