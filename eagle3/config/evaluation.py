"""Sections `export`, `evaluation` and `resources.evaluate`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from eagle3.config.section import Name, Section, Text, distinct

Format = Literal["sglang", "vllm", "speculators", "hf"]


class Export(Section):
    """The draft in the formats that engines load (docs/serving.md)."""

    formats: Annotated[list[Format], AfterValidator(distinct)] = Field(
        default=["sglang"],
        min_length=1,
        description="What is written to `draft/<format>`: for SGLang, for vLLM, in the format of "
        "the speculators library, which names the target (vLLM), and plain for transformers or "
        "torch. The evaluation decodes with the first one.",
    )
    embedding: bool = Field(
        default=False,
        description="Add the target's input embedding to every format but sglang, for readers that "
        "have no target; engines share the target's own.",
    )
    verifier: str | None = Field(
        default=None,
        min_length=1,
        description="Name or path that vLLM loads the target by, in format speculators; null is "
        "target.model.",
    )
    dtype: Literal["bfloat16", "float16", "float32"] = Field(
        default="bfloat16", description="Precision of the exported weights."
    )
    checkpoint: Literal["best", "last"] = Field(
        default="best",
        description="The stage whose draft is exported: the one of the best held-out acceptance, "
        "or the last one.",
    )


class PromptSet(Section):
    """A file of prompts."""

    name: Name = Field(description="What the report calls it.")
    source: Text = Field(description="The file.")


class Evaluation(Section):
    """How good the draft is (docs/evaluation.md): every stage on held-out hidden states, and the
    exported draft by chain speculative decoding."""

    held_out_samples: int = Field(
        default=128,
        ge=1,
        description="Held-out conversations whose states are captured, to score the checkpoint of "
        "every stage; rounded up to whole shards.",
    )
    num_prompts: int = Field(default=64, ge=1, description="Questions of each set.")
    prompts: Annotated[list[PromptSet], Field(min_length=1)] | None = Field(
        default=None,
        description="Sets of prompts to decode, each a `name` and a `source`: a file in the shape "
        "of MT-bench, HumanEval, GSM8K, Alpaca, CNN/DailyMail or of chats (docs/evaluation.md). "
        "num_prompts of each are used. Null is the held-out conversations.",
    )
    temperature: float = Field(
        default=0.0,
        ge=0,
        le=2,
        description="Above 0, acceptance is also measured with sampling at this temperature.",
    )
    max_new_tokens: int = Field(default=128, ge=2, description="Length limit of an answer.")
    num_draft_tokens: int = Field(
        default=5,
        ge=1,
        le=16,
        description="Chain length: tokens that the draft proposes per verification.",
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        default="float32", description="Precision of target and draft while they decode."
    )


class EvaluateJobs(Section):
    """The jobs that score checkpoints and measure the draft."""

    threads: int = Field(default=2, ge=1, description="CPU threads of the evaluation.")
    batch: int = Field(default=16, ge=1, description="Prompts that are answered together.")
