"""Section `draft`."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from eagle3.config.section import Section

MOST_LAYERS = 16


class Draft(Section):
    """Shape of the draft, one Llama layer or several. Null takes what `config` says, else the
    target's own figure where a draft can have it; where it cannot (docs/targets.md), a warning says
    what it has instead."""

    config: str | None = Field(
        default=None,
        min_length=1,
        description="Configuration of a draft for what is null here and for "
        "`hidden_states.aux_layers`: a JSON file, a folder with config.json, or "
        "`hub:<owner>/<name>`, in the form of SpecForge, speculators and published drafts. A key "
        "that cannot be honoured is refused by name. A file that names a class or type is of a "
        "whole model: without a `rope_theta` it means 10000, as to every engine.",
    )
    num_hidden_layers: int | None = Field(
        default=None,
        ge=1,
        le=MOST_LAYERS,
        description="Decoder layers; null is 1. The first is EAGLE-3's, those behind it are plain "
        "ones (docs/objective.md). Training runs all but the last for every row, so it costs more "
        "than their number says.",
    )
    intermediate_size: int | None = Field(
        default=None,
        ge=1,
        description="Width of the MLP; null is the target's dense width, never its expert width.",
    )
    num_attention_heads: int | None = Field(default=None, ge=1, description="Attention heads.")
    num_key_value_heads: int | None = Field(default=None, ge=1, description="Key and value heads.")
    head_dim: int | None = Field(default=None, ge=2, description="Width of a head.")
    max_position_embeddings: int | None = Field(
        default=None, ge=16, description="Context that engines read the draft with, in tokens."
    )
    rope_theta: float | None = Field(
        default=None, gt=0, description="Base of the rotary frequencies."
    )
    rope_scaling: dict[str, Any] | None = Field(
        default=None,
        description="Type of the rotary positions and what it needs, as transformers writes it: "
        "`{rope_type: yarn, factor: 4.0, original_max_position_embeddings: 32768}`. Types are "
        "`default` (plain), `linear`, `llama3` and `yarn`. It replaces the target's as a whole.",
    )
    sliding_window: int | None = Field(
        default=None,
        ge=2,
        description="Keys that the draft's attention sees at most, the row's own included; null is "
        "all before it. It must not be shorter than a chain. SGLang cannot load it.",
    )
    rms_norm_eps: float | None = Field(
        default=None, gt=0, le=0.1, description="Added to the mean square in every norm."
    )
    fc_norm: bool | None = Field(
        default=None,
        description="EAGLE-3.1: normalise each of the states before fc; null is false.",
    )
    norm_output: bool | None = Field(
        default=None,
        description="EAGLE-3.1: pass the normalised state to the next step; null is false.",
    )
    norm_before_residual: bool | None = Field(
        default=None,
        description="Attention is added to the normalised state, as in many drafts of the "
        "speculators library; null is false. SGLang cannot load it.",
    )
    qk_norm: bool | None = Field(
        default=None,
        description="Norms over each head of queries and keys, as in Qwen3; null is false.",
    )
