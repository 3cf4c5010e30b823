"""Section `draft`."""

from __future__ import annotations

from pydantic import Field

from eagle3.config.section import Section


class Draft(Section):
    """Shape of the draft; null takes the target's own figure."""

    intermediate_size: int | None = Field(
        default=None,
        ge=1,
        description="Width of the MLP; null is the target's dense width, never its expert width.",
    )
    num_attention_heads: int | None = Field(default=None, ge=1, description="Attention heads.")
    num_key_value_heads: int | None = Field(default=None, ge=1, description="Key and value heads.")
    head_dim: int | None = Field(default=None, ge=2, description="Width of a head.")
    fc_norm: bool = Field(
        default=False, description="EAGLE-3.1: normalise each of the three states before fc."
    )
    norm_output: bool = Field(
        default=False, description="EAGLE-3.1: pass the normalised state to the next step."
    )
    qk_norm: bool = Field(
        default=False, description="Norms over each head of queries and keys, as in Qwen3."
    )
