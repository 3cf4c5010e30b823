"""Sections `export`, `evaluation` and `resources.evaluate`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from eagle3.config.section import Name, Section, Text, distinct

Format = Literal["sglang", "vllm", "speculators", "hf"]


class Export(Section):
    """Export of the draft in formats that engines load (docs/serving.md)."""

    formats: Annotated[list[Format], AfterValidator(distinct)] = Field(
        default=["sglang"],
        min_length=1,
        description="Formats to write to `draft/<format>`: for SGLang; for vLLM; that of the "
        "speculators library, which names the target (vLLM); and plain, for transformers or torch. "
        "The evaluation decodes with the first one.",
    )
    embedding: bool = Field(
        default=False,
        description="Add the target's input embedding to every format except sglang, for readers "
        "without a target; engines use the target's own.",
    )
    verifier: str | None = Field(
        default=None,
        min_length=1,
        description="Name or path from which vLLM loads the target, in format speculators; null is "
        "target.model.",
    )
    dtype: Literal["bfloat16", "float16", "float32"] = Field(
        default="bfloat16", description="Precision of the exported weights."
    )
    checkpoint: Literal["best", "last"] = Field(
        default="best",
        description="Which stage's draft to export: the one with the best held-out acceptance, or "
        "the last one.",
    )


class PromptSet(Section):
    """One set of prompts."""

    name: Name = Field(description="Name of the set in the report.")
    source: Text = Field(description="File with the prompts.")


class Evaluation(Section):
    """How the draft is measured (docs/evaluation.md): every stage on held-out hidden states, the
    exported draft by speculative decoding with a chain of drafts."""

    held_out_samples: int = Field(
        default=128,
        ge=1,
        description="Held-out conversations whose states are captured, to score the checkpoint of "
        "every stage; rounded up to whole shards.",
    )
    num_prompts: int = Field(
        default=64, ge=1, description="Number of prompts to decode from each set."
    )
    prompts: Annotated[list[PromptSet], Field(min_length=1)] | None = Field(
        default=None,
        description="Sets of prompts to decode, each a `name` and a `source`: a file in the format "
        "of MT-bench, HumanEval, GSM8K, Alpaca, CNN/DailyMail, or of chats (docs/evaluation.md). "
        "Null decodes held-out conversations.",
    )
    temperature: float = Field(
        default=0.0,
        ge=0,
        le=2,
        description="Above 0, acceptance is also measured with sampling at this temperature.",
    )
    max_new_tokens: int = Field(default=128, ge=2, description="Maximum tokens of an answer.")
    num_speculative_tokens: int = Field(
        default=5,
        ge=1,
        le=16,
        description="Tokens that the draft proposes per verify pass, as vLLM names them; SGLang "
        "calls them steps, and counts one draft token more.",
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        default="float32",
        description="Precision of target and draft during decoding. float32 takes four bytes a "
        "parameter of the target, twice its bfloat16 weights: use bfloat16 if that does not fit.",
    )


class EvaluateResources(Section):
    """The jobs that score checkpoints and measure the draft."""

    threads: int = Field(default=2, ge=1, description="CPU threads of the evaluation.")
    batch: int = Field(default=16, ge=1, description="Prompts per batch.")
