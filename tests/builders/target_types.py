"""Which model types a draft can be derived for, by the default configuration of their classes.

Nothing is downloaded and no model is built. docs/targets.md has what came of building them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from eagle3.draft.config import compromises, derive_config
from eagle3.errors import Foreign, UserError
from eagle3.target_model.config import check_figures
from eagle3.target_model.logits import logit_rules


@dataclass(frozen=True)
class Answer:
    """What is said of one model type: sentences of `compromises`, or the refusal."""

    kind: str
    notes: tuple[str, ...] = ()
    refusal: str | None = None


def causal_types() -> list[str]:
    """Every model type that transformers loads as a causal language model."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def answer(kind: str) -> Answer:
    """What the pipeline would say of a target with the default configuration of a model type."""
    from transformers import AutoConfig

    try:
        with Foreign("target.model: the class has no default configuration"):
            whole = AutoConfig.for_model(kind)
            text = whole.get_text_config(decoder=True)
        check_figures(text, Path("config.json"))
        logit_rules(text)
        derive_config(text, {}, 8, (0, 1, 2))
    except UserError as fault:
        return Answer(kind, refusal=str(fault))
    return Answer(kind, tuple(compromises(text, {})))
