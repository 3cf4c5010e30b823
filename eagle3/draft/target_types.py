"""Which model types a draft can be derived for: docs/targets.md, by
`python -m eagle3.draft.target_types > docs/targets.md`.

Every type that transformers loads as a causal language model is asked with the default
configuration of its class. Nothing is downloaded and no model is built.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill

from eagle3.draft.config import compromises, derive_config
from eagle3.errors import Foreign, UserError
from eagle3.target_model.config import check_figures
from eagle3.target_model.logits import logit_rules

INTRODUCTION = """# Targets

Which targets a draft can be trained for, by the model type in their `config.json`. This page is
written by

    python -m eagle3.draft.target_types > docs/targets.md

which asks every type that transformers ({version}) loads as a causal language model, by the default
configuration of its class. A checkpoint may differ from that: `snakemake -n` says what holds for
yours, before any job.

The draft is a model of its own, one Llama layer over the target's states
([objective.md](objective.md)). It has the target's shape where a Llama can have it. Every figure
can be set in section `draft` ([configuration.md](configuration.md#draft)), or taken from the
configuration of a published draft with `draft.config`.

Weights are read from safetensors in a floating-point type. A GGUF file becomes such a folder with
transformers' `GgufConfig(dequantize=True)` (`benchmarks/real/model.py`). transformers keeps 4-bit
blocks packed only where the hub has a kernel for the device; on a CPU without one, all states of
SmolLM2-135M (Q4_1) had the same bits with either setting. Written in bfloat16, the folder gives
states that differ by at most 0.3 % of the largest (cosine 0.99998), and the same choices.

| | types |
|---|---|
| in the target's shape | {plain} |
| in one of its own, with a warning | {other} |
| refused | {refused} |
"""


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


def page(answers: list[Answer]) -> str:
    """docs/targets.md"""
    return "\n".join(_lines(answers))


def _lines(answers: list[Answer]) -> Iterator[str]:
    from transformers import __version__

    plain = [each for each in answers if not each.notes and each.refusal is None]
    other = [each for each in answers if each.notes]
    refused = [each for each in answers if each.refusal is not None]
    yield INTRODUCTION.format(
        version=__version__, plain=len(plain), other=len(other), refused=len(refused)
    )
    yield "## In the target's shape\n"
    names = ", ".join(f"`{each.kind}`" for each in plain)
    yield fill(names, 100, break_long_words=False, break_on_hyphens=False) + "\n"
    yield "## In a shape of its own\n"
    yield "| types | what is said |\n|---|---|"
    yield from _rows(other)
    yield "\n## Refused\n"
    yield "| types | what is said |\n|---|---|"
    yield from _rows(refused)
    yield ""


def _rows(answers: list[Answer]) -> Iterator[str]:
    """One for every answer that is given, with the types that it is given to."""
    kinds: dict[str, list[str]] = {}
    for each in answers:
        said = each.refusal or "; ".join(each.notes)
        kinds.setdefault(said.removeprefix("target.model: "), []).append(f"`{each.kind}`")
    for said, named in kinds.items():
        yield f"| {', '.join(named)} | {said} |"


if __name__ == "__main__":
    sys.stdout.write(page([answer(kind) for kind in causal_types()]))
