"""The EAGLE-3 draft: a Llama decoder layer that reads the target's states, and optional others.

    g   = fc(aux)                                                 hidden of the first step
    x   = cat(input_layernorm(embedding), hidden_norm(hidden))    [N, 2H]
    h   = hidden + o_proj(attention(q(x), k(x), v(x)))            residual: hidden, un-normed
    out = h + mlp(post_attention_layernorm(h))                    handed to the next step
    logits = lm_head(norm(out))                                   on the draft vocabulary

Further layers (`num_hidden_layers` above 1) are plain Llama layers: attention reads
input_layernorm(out of the layer before), H wide. The last one's output is handed to the next step.

Switches of the configuration, with the meaning they have in SGLang and vLLM:

    fc_norm       g = fc(cat of fc_norm.i(chunk i of aux)): layers of unlike scale weigh alike
    norm_output   norm(out) is handed on, and read by lm_head as it is
    qk_norm       q_norm and k_norm over every head, before the rotation
    norm_before_residual   h = hidden_norm(hidden) + o_proj(...); vLLM and speculators alone

The caller computes attention: training-time test and chain decoding attend to different keys.
Tensor names are those of SGLang and vLLM (`midlayer.*`, `layers.1.*`, …, `fc`, `norm`, `lm_head`).
The embedding is the target's, frozen, and not part of the module.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn.functional import silu

from eagle3.draft.config import DraftConfig
from eagle3.draft.rope import inverse_frequencies, rotate


class RMSNorm(nn.Module):
    """Root-mean-square norm; statistics in at least float32."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        exact = x if x.dtype == torch.float64 else x.float()
        scale = torch.rsqrt(exact.square().mean(-1, keepdim=True) + self.eps)
        return (exact * scale * self.weight).to(x.dtype)


class SelfAttention(nn.Module):
    """Projections of the layer's attention; no bias anywhere."""

    def __init__(self, config: DraftConfig, width: int) -> None:
        """`width`: of the input."""
        super().__init__()
        d = config.head_dim
        self.q_proj = nn.Linear(width, config.num_attention_heads * d, bias=False)
        self.k_proj = nn.Linear(width, config.num_key_value_heads * d, bias=False)
        self.v_proj = nn.Linear(width, config.num_key_value_heads * d, bias=False)
        self.o_proj = nn.Linear(config.num_attention_heads * d, config.hidden_size, bias=False)
        if config.qk_norm:
            self.q_norm = RMSNorm(d, config.rms_norm_eps)
            self.k_norm = RMSNorm(d, config.rms_norm_eps)


class MLP(nn.Module):
    """SwiGLU."""

    def __init__(self, config: DraftConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(silu(self.gate_proj(x)) * self.up_proj(x))


class MidLayer(nn.Module):
    """The first decoder layer, with the engines' tensor names."""

    def __init__(self, config: DraftConfig) -> None:
        super().__init__()
        self.hidden_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = SelfAttention(config, 2 * config.hidden_size)
        self.mlp = MLP(config)

    @property
    def state_norm(self) -> RMSNorm:
        """The norm of the hidden state before attention."""
        return self.hidden_norm


class FurtherLayer(nn.Module):
    """A decoder layer after the first: a plain Llama layer."""

    def __init__(self, config: DraftConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = SelfAttention(config, config.hidden_size)
        self.mlp = MLP(config)

    @property
    def state_norm(self) -> RMSNorm:
        """See `MidLayer`."""
        return self.input_layernorm


class Eagle3Draft(nn.Module):
    """The trainable draft, in pieces that the caller combines."""

    def __init__(self, config: DraftConfig) -> None:
        super().__init__()
        self.config = config
        self.fc = nn.Linear(config.aux_width, config.hidden_size, bias=False)
        if config.fc_norm:
            norms = (RMSNorm(config.hidden_size, config.rms_norm_eps) for _ in config.aux_layers)
            self.fc_norm = nn.ModuleList(norms)  # one for each chunk of aux
        self.midlayer = MidLayer(config)
        if config.num_hidden_layers > 1:
            numbers = range(1, config.num_hidden_layers)
            self.layers = nn.ModuleDict({str(number): FurtherLayer(config) for number in numbers})
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.lm_head = nn.Linear(config.hidden_size, config.draft_vocab_size, bias=False)
        # not a buffer: a cast of the module must not round frequencies
        self.inv_freq, self.rope_scaling = inverse_frequencies(config)

    def _apply(
        self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True
    ) -> Eagle3Draft:
        """Called by `to` and similar methods: frequencies follow to the device, not to the type."""
        super()._apply(fn, recurse)
        self.inv_freq = self.inv_freq.to(self.fc.weight.device)
        return self

    @property
    def decoder_layers(self) -> list[MidLayer | FurtherLayer]:
        """All layers in order."""
        further = self.layers.values() if self.config.num_hidden_layers > 1 else ()
        return [self.midlayer, *further]

    def project_aux(self, aux: torch.Tensor) -> torch.Tensor:
        """States of C layers side by side [N, C H] -> hidden of the first step [N, H]"""
        if self.config.fc_norm:
            chunks = zip(self.fc_norm, aux.split(self.config.hidden_size, dim=-1), strict=True)
            aux = torch.cat([norm(chunk) for norm, chunk in chunks], dim=-1)
        return self.fc(aux)

    def layer_input(
        self, embedding: torch.Tensor, hidden: torch.Tensor, number: int = 0
    ) -> torch.Tensor:
        """[N, H] token embeddings and [N, H] hidden states -> [N, 2H], embedding first; a later
        layer reads only the states, [N, H]."""
        if number > 0:
            return self.decoder_layers[number].state_norm(hidden)
        layer = self.midlayer
        embedding = embedding.to(hidden.dtype)
        return torch.cat((layer.input_layernorm(embedding), layer.hidden_norm(hidden)), dim=-1)

    def queries(self, x: torch.Tensor, positions: torch.Tensor, number: int = 0) -> torch.Tensor:
        """Input of layer `number` -> rotated [N, heads, head_dim]"""
        attn = self.decoder_layers[number].self_attn
        q = attn.q_proj(x).unflatten(-1, (-1, self.config.head_dim))
        if self.config.qk_norm:
            q = attn.q_norm(q)
        return rotate(q, positions, self.inv_freq, self.rope_scaling)

    def keys_values(
        self, x: torch.Tensor, positions: torch.Tensor, number: int = 0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Input of layer `number` -> rotated keys and values [N, kv_heads, head_dim]"""
        attn, d = self.decoder_layers[number].self_attn, self.config.head_dim
        k = attn.k_proj(x).unflatten(-1, (-1, d))
        v = attn.v_proj(x).unflatten(-1, (-1, d))
        if self.config.qk_norm:
            k = attn.k_norm(k)
        return rotate(k, positions, self.inv_freq, self.rope_scaling), v

    def finish(self, hidden: torch.Tensor, attended: torch.Tensor, number: int = 0) -> torch.Tensor:
        """Residual [N, H] and attention output [N, heads, head_dim] -> output of layer `number`,
        the input of the next layer or, after the last one, of the next step [N, H]"""
        layer = self.decoder_layers[number]
        normed = self.config.norm_before_residual and number == 0
        residual = layer.state_norm(hidden) if normed else hidden
        h = residual + layer.self_attn.o_proj(attended.flatten(-2))
        out = h + layer.mlp(layer.post_attention_layernorm(h))
        last = number == self.config.num_hidden_layers - 1
        return self.norm(out) if self.config.norm_output and last else out

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Output of the last layer [N, H] -> [N, V_draft]"""
        return self.lm_head(hidden if self.config.norm_output else self.norm(hidden))


def initialise(
    draft: Eagle3Draft,
    seed: int,
    head_rows: torch.Tensor | None = None,  # [V_draft, H]
    final_norm: torch.Tensor | None = None,  # [H]
) -> None:
    """Initialise weights: seeded normal of variance 1 / inputs, the same for every width; norms
    one; head and final norm copied if given."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, weight in sorted(draft.named_parameters()):
            if weight.dim() == 2:
                values = torch.randn(weight.shape, generator=generator)
                weight.copy_(values * weight.shape[1] ** -0.5)
        if head_rows is not None:
            draft.lm_head.weight.copy_(head_rows)
        if final_norm is not None:
            draft.norm.weight.copy_(final_norm)
