"""Sections `target` and `embedded_target`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from eagle3.config.section import Section, Text


class Target(Section):
    """The large model that the draft is trained for."""

    model: Text = Field(
        default="embedded",
        description="`embedded` (a tiny model trained by the pipeline), a local directory in "
        "Hugging Face format, or `hub:<owner>/<name>`.",
    )
    revision: str | None = Field(
        default=None,
        description="Hub models only: a commit or tag; pin it to make the run reproducible.",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto",
        description="Precision of the target during capture. `auto` takes it from config.json, "
        "except on a CPU that is much faster in float32: the call that begins a run measures it, "
        "and the run keeps what it began with (docs/capture.md).",
    )
    adapter: str | None = Field(
        default=None,
        min_length=1,
        description="Folder of a LoRA adapter, as PEFT saves it, that is served on the target: "
        "states, answers and evaluation are those of the target with it (docs/targets.md).",
    )
    trust_remote_code: bool = Field(
        default=False, description="Run code that comes with the model or tokenizer."
    )
    embedding_key: str = Field(
        default="model.embed_tokens.weight",
        description="Name of the input embedding in the target's safetensors files. If no file has "
        "it, the only tensor with the same ending is used, as in multimodal models. The same holds "
        "for the next two keys.",
    )
    lm_head_key: str = Field(
        default="lm_head.weight",
        description="Name of the output head; a model with tied embeddings needs no change.",
    )
    final_norm_key: str = Field(
        default="model.norm.weight",
        description="Name of the norm before the head; the draft's norm is initialised from it.",
    )


class EmbeddedTarget(Section):
    """The tiny target of the embedded default; read only if target.model is `embedded`."""

    source: Text = Field(
        default="data/demo_chat.jsonl",
        description="Conversations to train it on. All are used, regardless of num_samples.",
    )
    vocab_size: int = Field(default=1024, ge=300, description="Number of byte-level BPE tokens.")
    hidden_size: int = Field(
        default=128,
        ge=16,
        multiple_of=16,
        description="Hidden size; a multiple of num_heads, with an even width per head.",
    )
    intermediate_size: int = Field(default=256, ge=16, description="Width of the MLP.")
    # with fewer layers, the three that EAGLE-3 reads by default would not be distinct
    num_layers: int = Field(default=8, ge=7, description="Decoder layers.")
    num_heads: int = Field(
        default=4, ge=1, description="Attention heads; a multiple of num_kv_heads."
    )
    num_kv_heads: int = Field(default=2, ge=1, description="Key and value heads.")
    max_position_embeddings: int = Field(default=1024, ge=64, description="Context, in tokens.")
    epochs: int = Field(default=1, ge=1, description="Passes over the conversations.")
    batch_tokens: int = Field(default=1024, ge=64, description="Tokens per optimiser step.")
    learning_rate: float = Field(default=8.0e-3, gt=0, description="Peak learning rate.")
    seed: int = Field(default=0, ge=0, description="Seed of the initial weights and the order.")
    dtype: Literal["float32", "bfloat16"] = Field(
        default="bfloat16", description="Precision of the saved weights."
    )
