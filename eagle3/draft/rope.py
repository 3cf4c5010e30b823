"""Rotary positions: frequencies and rotation.

Frequencies and the attention factor of a scaled rotary type (linear, llama3, yarn) come from
transformers, as in engines; the plain ones are one formula, which saves seconds of importing
transformers. The rotation is implemented here because it is needed in float64 too.
"""

from __future__ import annotations

import torch

from eagle3.draft.config import DraftConfig


def inverse_frequencies(config: DraftConfig) -> tuple[torch.Tensor, float]:
    """float32 [head_dim / 2] and the factor on cos and sin."""
    if config.rope.get("rope_type") == "default":  # the original formula (RoFormer, 3.4.2)
        exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
        return 1.0 / config.rope["rope_theta"] ** exponents, 1.0
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    rotary = LlamaRotaryEmbedding(
        LlamaConfig(
            hidden_size=config.hidden_size,
            num_attention_heads=config.num_attention_heads,
            head_dim=config.head_dim,
            max_position_embeddings=config.max_position_embeddings,
            rope_parameters=dict(config.rope),
        )
    )
    # .data: the library's is an nn.Buffer, which a module would register and cast
    return rotary.inv_freq.data.float(), float(rotary.attention_scaling)


def angles(
    positions: torch.Tensor, inv_freq: torch.Tensor, scaling: float, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin [N, 1, head_dim / 2] of positions int64 [N], times the factor, in `dtype`."""
    angle = positions.to(dtype)[:, None] * inv_freq.to(positions.device, dtype)  # [N, head_dim / 2]
    return (angle.cos() * scaling)[:, None], (angle.sin() * scaling)[:, None]


def rotate(
    x: torch.Tensor,  # [N, heads, head_dim]
    positions: torch.Tensor,  # int64 [N]
    inv_freq: torch.Tensor,  # [head_dim / 2]
    scaling: float,
) -> torch.Tensor:
    """Rotate each head by its position. Angles are computed in at least float32."""
    exact = torch.float64 if x.dtype == torch.float64 else torch.float32
    cos, sin = angles(positions, inv_freq, scaling, exact)
    low, high = x.to(exact).chunk(2, dim=-1)
    return torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1).to(x.dtype)
