"""One decoder layer of the draft in training, in the pieces that the steps put together."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from eagle3.draft.config import DraftConfig
from eagle3.draft.model import FurtherLayer, MidLayer
from eagle3.kernels.fused_ops import at_least_fp32, gathered_sum, rms_norm, rotation, swiglu
from eagle3.kernels.matmul import linear

Projections = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # queries, keys, values


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
    """What the embeddings of tokens add to projections of the first layer."""

    kv: torch.Tensor  # [T, 2 kv_heads d], of the token that each row reads at step 0; more rows if
    # some tokens are read by later steps only (sequence parallelism)
    qkv: torch.Tensor  # [R, (heads + 2 kv_heads) d], of the tokens that later steps read too; of
    # several layers the first has a query of every row, so [T, …] then,
    places: torch.Tensor | None = None  # int64 [R], and where among them those R are

    @classmethod
    def of_all(cls, qkv: torch.Tensor, queries: int, places: torch.Tensor) -> EmbeddingProjections:
        """From the projections of every token, `queries` of whose columns are those of queries."""
        qkv = at_least_fp32(qkv)
        return cls(qkv[:, queries:], qkv, places)

    def of_reads(self, reads: torch.Tensor) -> Reads:
        """Those of rows that read the tokens `reads` int64 [N], among the R."""
        return Reads(self, reads if self.places is None else self.places[reads])

    def of_rows(self, count: int) -> Reads:
        """Those of the first `count` rows at step 0, with several layers."""
        return Reads(self, torch.arange(count, device=self.qkv.device))


@dataclass(frozen=True)
class Reads:
    """Which row of `EmbeddingProjections.qkv` each of N rows takes."""

    embedded: EmbeddingProjections
    index: torch.Tensor  # int64 [N]


class TrainingLayer:
    """A layer's weights as one pack uses them."""

    def __init__(
        self,
        config: DraftConfig,
        layer: MidLayer | FurtherLayer,
        qkv: MixedLinear,
        rotary: RotaryTable,
    ) -> None:
        """`qkv` [(heads + 2 kv_heads) d, H]: what projections make of the normed hidden state."""
        attn, dtype = layer.self_attn, qkv.narrow.dtype
        self.config, self.layer, self.qkv, self.rotary = config, layer, qkv, rotary
        self.norm = layer.state_norm
        self.normed_residual = config.norm_before_residual and isinstance(layer, MidLayer)
        self.heads = config.num_attention_heads
        self.query_width = self.heads * config.head_dim
        self.rotary_heads = self.heads + config.num_key_value_heads
        self.head_gains = None
        if config.qk_norm:
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
        self.dtype = dtype

    def first_projections(
        self,
        hidden: torch.Tensor,  # [T, H]
        positions: torch.Tensor,  # int64 [T]
        queried: torch.Tensor | None,  # int64 [A], rows that have a query; None: all
        reads: Reads | None = None,  # of these, in the first layer
    ) -> Projections:
        """Step 0: rotated queries [A, heads, d], keys and values of every row [T, kv_heads, d]."""
        x = self.normed(hidden)
        kv = at_least_fp32(self.qkv.rows(self.query_width, len(self.qkv.narrow))(x))
        if reads is not None:
            kv = reads.embedded.kv[: len(hidden)] + kv
        k, v = self._heads(kv).chunk(2, dim=1)
        chosen = slice(None) if queried is None else queried
        q = self.qkv.rows(0, self.query_width)(x[chosen])
        if reads is None:
            q = at_least_fp32(q)
        else:
            q = gathered_sum(reads.embedded.qkv[:, : self.query_width], reads.index, q)
        q = self.rotary(self._head_normed(self._heads(q), 0), positions[chosen])
        k = self.rotary(self._head_normed(k, self.heads), positions)
        return q.to(self.dtype), k.to(self.dtype), v.to(self.dtype)

    def projections(
        self,
        hidden: torch.Tensor,  # [A_k, H]
        positions: torch.Tensor,  # int64 [A_k]
        reads: Reads | None = None,  # in the first layer
    ) -> Projections:
        """Later steps: rotated queries [A_k, heads, d], keys and values [A_k, kv_heads, d]."""
        qkv = self.qkv(self.normed(hidden))
        if reads is None:
            qkv = at_least_fp32(qkv)
        else:
            qkv = gathered_sum(reads.embedded.qkv, reads.index, qkv)
        qkv = self._heads(qkv)
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
        return rms_norm(hidden, self.norm.weight, self.norm.eps)

    def finish(self, hidden: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        """Residual [N, H] and attention output [N, heads d] -> what the layer gives [N, H]"""
        post = self.layer.post_attention_layernorm
        residual = self.normed(hidden) if self.normed_residual else hidden
        h = residual + self.o_proj(attended)
        x = rms_norm(h, post.weight, post.eps)
        return h + self.down(swiglu(self.gate(x), self.up(x)))
