"""The draft's forward pass in training: the embedding's half of q, k and v is computed once.

q, k and v read cat(norm(embedding), norm(hidden)). The embedding's half depends on the token alone,
so its product is formed once per token and looked up at each TTT step, when another row reads
the token; only the hidden half is multiplied again. The sum is rotated, so this is exact.

    step 0   row t reads token t + 1        q = E[t + 1] + H[t] W
    step 1   row t reads token t + 2        q = E[t + 2] + H'[t] W        same E, other rows

E is float32 at least, and so is the sum of its gradients over the steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from eagle3.draft.model import Eagle3Draft
from eagle3.draft.rope import angles
from eagle3.kernels.fused_ops import at_least_fp32, gathered_sum, rms_norm, rotation, swiglu
from eagle3.kernels.matmul import linear


@dataclass(frozen=True)
class MixedLinear:
    """A weight [out, in] and its copy in the type that products are computed in."""

    weight: torch.Tensor
    narrow: torch.Tensor

    @classmethod
    def of(cls, weight: torch.Tensor, dtype: torch.dtype) -> MixedLinear:
        return cls(weight, weight.detach().to(dtype).contiguous())

    def rows(self, first: int, stop: int) -> MixedLinear:
        return MixedLinear(self.weight[first:stop], self.narrow[first:stop])

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return linear(x, self.weight, self.narrow)


@dataclass(frozen=True)
class RotaryTable:
    """cos and sin of every position [P, 1, d / 2]."""

    cos: torch.Tensor
    sin: torch.Tensor

    def __call__(self, x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Rotate x [N, heads, d] by its positions int64 [N]."""
        return rotation(x, self.cos[positions], self.sin[positions])


@dataclass(frozen=True)
class EmbeddingProjections:
    """What the embeddings of tokens add to projections."""

    kv: torch.Tensor  # [T, 2 kv_heads d], of the token that each row reads at step 0; more rows if
    # some tokens are read by later steps only (sequence parallelism)
    qkv: torch.Tensor  # [R, (heads + 2 kv_heads) d], of the tokens that later steps read too


class TrainingDraft:
    """A draft's weights as one pack uses them; gradients reach the parameters of the draft."""

    def __init__(self, draft: Eagle3Draft, dtype: torch.dtype, positions: int) -> None:
        """`dtype`: of products and of what is kept between them; positions are 0..positions-1."""
        layer, attn = draft.midlayer, draft.midlayer.self_attn
        self.config, self.dtype, self.layer, self.norm = draft.config, dtype, layer, draft.norm
        self.heads = self.config.num_attention_heads
        self.query_width = self.heads * self.config.head_dim
        self.rotary_heads = self.heads + self.config.num_key_value_heads
        stacked = torch.cat((attn.q_proj.weight, attn.k_proj.weight, attn.v_proj.weight))
        by_embedding, by_hidden = stacked.split(self.config.hidden_size, dim=1)
        self.qkv_embedding = MixedLinear.of(by_embedding.contiguous(), dtype)
        self.qkv_hidden = MixedLinear.of(by_hidden.contiguous(), dtype)
        self.fc = MixedLinear.of(draft.fc.weight, dtype)
        self.fc_gains = self.head_gains = None
        if self.config.fc_norm:
            self.fc_gains = torch.stack([*draft.fc_norm.parameters()])  # [3, H]
        if self.config.qk_norm:
            kv_heads = self.rotary_heads - self.heads
            gains = (
                attn.q_norm.weight.expand(self.heads, -1),
                attn.k_norm.weight.expand(kv_heads, -1),
            )
            self.head_gains = torch.cat(gains)  # [heads + kv_heads, d]
        self.o_proj = MixedLinear.of(attn.o_proj.weight, dtype)
        self.gate, self.up, self.down = (
            MixedLinear.of(w.weight, dtype)
            for w in (layer.mlp.gate_proj, layer.mlp.up_proj, layer.mlp.down_proj)
        )
        self.head = MixedLinear.of(draft.lm_head.weight, dtype)
        wide = at_least_fp32(draft.fc.weight.detach()).dtype
        cos, sin = angles(
            torch.arange(positions, device=stacked.device), draft.inv_freq, draft.rope_scaling, wide
        )
        self.rotary = RotaryTable(cos, sin)

    def project_aux(self, aux: torch.Tensor) -> torch.Tensor:
        """aux [T, 3H] -> g [T, H]"""
        aux = aux.to(self.dtype)
        if self.fc_gains is not None:
            chunks = aux.unflatten(-1, (3, -1))
            aux = rms_norm(chunks, self.fc_gains, self.config.rms_norm_eps).flatten(1)
        return self.fc(aux)

    def project_embeddings(
        self, embedding: torch.Tensor, taught: torch.Tensor
    ) -> EmbeddingProjections:
        """The embedding's half, for embeddings [T, H] of the tokens that rows read at step 0.
        `taught` int64 [R]: those that later steps read too (see `objective.row_index`)."""
        norm = self.layer.input_layernorm
        normed = rms_norm(embedding.to(self.dtype), norm.weight, norm.eps)
        q = self.qkv_embedding.rows(0, self.query_width)(normed[taught])
        kv = self.qkv_embedding.rows(self.query_width, len(self.qkv_embedding.narrow))(normed)
        kv = at_least_fp32(kv)
        return EmbeddingProjections(kv, torch.cat((at_least_fp32(q), kv[taught]), dim=1))

    def first_projections(
        self,
        hidden: torch.Tensor,  # [T, H]
        embedded: EmbeddingProjections,
        positions: torch.Tensor,  # int64 [T]
        active: torch.Tensor,  # int64 [A_0], rows that have a query
        reads: torch.Tensor,  # int64 [A_0], which row of `embedded.qkv` each of them reads
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Step 0: rotated queries of the active rows [A_0, heads, d], keys and values of every row
        [T, kv_heads, d]."""
        x = self.normed(hidden)
        whole = len(self.qkv_hidden.narrow)
        kv = embedded.kv[: len(hidden)] + at_least_fp32(
            self.qkv_hidden.rows(self.query_width, whole)(x)
        )
        k, v = self._heads(kv).chunk(2, dim=1)
        q = gathered_sum(
            embedded.qkv[:, : self.query_width],
            reads,
            self.qkv_hidden.rows(0, self.query_width)(x[active]),
        )
        q = self.rotary(self._head_normed(self._heads(q), 0), positions[active])
        k = self.rotary(self._head_normed(k, self.heads), positions)
        return q.to(self.dtype), k.to(self.dtype), v.to(self.dtype)

    def projections(
        self,
        hidden: torch.Tensor,  # [A_k, H]
        embedded: EmbeddingProjections,
        reads: torch.Tensor,  # int64 [A_k], which row of `embedded.qkv` each row reads
        positions: torch.Tensor,  # int64 [A_k]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Later steps: rotated queries [A_k, heads, d], keys and values [A_k, kv_heads, d]."""
        qkv = self._heads(gathered_sum(embedded.qkv, reads, self.qkv_hidden(self.normed(hidden))))
        qk = self._head_normed(qkv[:, : self.rotary_heads], 0)
        rotated = self.rotary(qk, positions).to(self.dtype)
        q, k = rotated.split((self.heads, self.rotary_heads - self.heads), dim=1)
        return q, k, qkv[:, self.rotary_heads :].to(self.dtype)

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        """[N, n d] -> [N, n, d]"""
        return x.unflatten(-1, (-1, self.config.head_dim))

    def _head_normed(self, x: torch.Tensor, first: int) -> torch.Tensor:
        """x [N, n, d]: heads `first` and on of queries, then keys. The norm is no linear map, so it
        comes after the halves are added up."""
        if self.head_gains is None:
            return x
        gains = self.head_gains[first : first + x.shape[1]]
        return rms_norm(x, gains, self.config.rms_norm_eps)

    def normed(self, hidden: torch.Tensor) -> torch.Tensor:
        """What the projections read of the hidden state."""
        return rms_norm(hidden, self.layer.hidden_norm.weight, self.layer.hidden_norm.eps)

    def finish(self, hidden: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        """Residual [N, H] and attention output [N, heads d] -> hidden of the next step [N, H]"""
        post = self.layer.post_attention_layernorm
        residual = self.normed(hidden) if self.config.norm_before_residual else hidden
        h = residual + self.o_proj(attended)
        x = rms_norm(h, post.weight, post.eps)
        out = h + self.down(swiglu(self.gate(x), self.up(x)))
        return self._normed_output(out) if self.config.norm_output else out

    def head_input(self, hidden: torch.Tensor) -> torch.Tensor:
        """What the head reads of a hidden state [N, H] that `finish` returned."""
        return hidden if self.config.norm_output else self._normed_output(hidden)

    def _normed_output(self, out: torch.Tensor) -> torch.Tensor:
        return rms_norm(out, self.norm.weight, self.norm.eps)
