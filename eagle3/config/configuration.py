"""The whole configuration: what a user wrote, validated, and defaults for everything else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field, ValidationError

from eagle3.config.cross_checks import cross_key_faults
from eagle3.config.dataset import Dataset
from eagle3.config.draft import Draft
from eagle3.config.evaluation import Evaluation, Export
from eagle3.config.faults import sentences
from eagle3.config.hidden_states import HiddenStates
from eagle3.config.odd_values import odd_values
from eagle3.config.resources import Hardware, Resources
from eagle3.config.section import Name, Section
from eagle3.config.target import EmbeddedTarget, Target
from eagle3.config.tokens import Tokens, Vocab
from eagle3.config.train import Train
from eagle3.errors import UserError


class Config(Section):
    """All sections."""

    run: Name = Field(description="Name of the run; all its results are in `results/<run>`.")
    dataset: Dataset = Field(default_factory=Dataset)
    target: Target = Field(default_factory=Target)
    embedded_target: EmbeddedTarget = Field(default_factory=EmbeddedTarget)
    tokens: Tokens = Field(default_factory=Tokens)
    vocab: Vocab = Field(default_factory=Vocab)
    hidden_states: HiddenStates = Field(default_factory=HiddenStates)
    draft: Draft = Field(default_factory=Draft)
    train: Train = Field(default_factory=Train)
    export: Export = Field(default_factory=Export)
    evaluation: Evaluation = Field(default_factory=Evaluation)
    resources: Resources = Field(default_factory=Resources)
    hardware: Hardware = Field(default_factory=Hardware)

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Self:
        """The configuration that a user wrote, validated and with defaults.

        Raises UserError that lists every fault, one per line.
        """
        try:
            parsed = cls.model_validate(dict(config))
            odd = next(odd_values("", parsed), None)
        except ValidationError as fault:
            raise _error(sentences(fault, cls)) from None
        except RecursionError:  # a YAML alias can refer to a node that contains it
            raise _error(["it is nested too deeply"]) from None
        faults = [odd] if odd else list(cross_key_faults(parsed))
        if faults:
            raise _error(faults)
        return parsed

    def to_dict(self) -> dict[str, Any]:
        """The configuration as plain dictionaries, lists, strings and numbers."""
        return self.model_dump()


def _error(faults: list[str]) -> UserError:
    return UserError("config: " + "\n        ".join(faults))
