"""One decoder layer of the draft in training, in pieces that the TTT steps combine."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from eagle3.draft.config import DraftConfig
from eagle3.draft.model import FurtherLayer, MidLayer
from eagle3.kernels.fused_ops import at_least_fp32, rms_norm, swiglu
from eagle3.kernels.gradient_sum import GradientSum, shared
from eagle3.kernels.heads import Angles, TableRows, gathered_sum, rotary_heads
from eagle3.kernels.matmul import linear

Projections = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # queries, keys, values


@dataclass(frozen=True)
class MixedLinear:
    """Rows of a weight in the type of the products."""

    weight: torch.Tensor  # [out, in], all rows
    gradient: GradientSum
    narrow: torch.Tensor  # [n, in]
    first: int = 0  # row of the weight at which `narrow` begins

    @classmethod
    def of(cls, weight: torch.Tensor, dtype: torch.dtype) -> MixedLinear:
        return cls(*shared(weight), weight.detach().to(dtype).contiguous())

    def rows(self, first: int, stop: int) -> MixedLinear:
        first, narrow = self.first + first, self.narrow[first:stop]
        return MixedLinear(self.weight, self.gradient, narrow, first)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return linear(x, self.weight, self.narrow, self.gradient, self.first)


@dataclass(frozen=True)
class EmbeddingProjections:
    """Contributions of token embeddings to the projections of the first layer."""

    kv: torch.Tensor  # [T, 2 kv_heads d], of the token that each row reads at step 0; more rows if
    # some tokens are read by later steps only (sequence parallelism)
    qkv: torch.Tensor  # [R, (heads + 2 kv_heads) d], of the tokens that later steps read too; of
    # several layers the first has a query of every row, so [T, …] then,
    gradient: GradientSum  # of qkv
    places: torch.Tensor | None = None  # int64 [R], rows of qkv that those R are, if it has T

    @classmethod
    def of(cls, kv: torch.Tensor, qkv: torch.Tensor) -> EmbeddingProjections:
        return cls(kv, *shared(qkv))

    @classmethod
    def of_all(cls, qkv: torch.Tensor, queries: int, places: torch.Tensor) -> EmbeddingProjections:
        """From the projections of every token, whose first `queries` columns are queries."""
        qkv = at_least_fp32(qkv)
        return cls(qkv[:, queries:], *shared(qkv), places)

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

    @property
    def rows(self) -> TableRows:
        return TableRows(self.embedded.qkv, self.embedded.gradient, self.index)


class TrainingLayer:
    """A layer's weights as one pack uses them."""

    def __init__(
        self,
        config: DraftConfig,
        layer: MidLayer | FurtherLayer,
        qkv: MixedLinear,
        rotary: tuple[torch.Tensor, torch.Tensor],
    ) -> None:
        """`qkv` [(heads + 2 kv_heads) d, H]: projections of the normed hidden state; `rotary`: cos
        and sin of every position [P, 1, d / 2]."""
        attn, dtype = layer.self_attn, qkv.narrow.dtype
        self.config, self.layer, self.qkv, self.rotary = config, layer, qkv, rotary
        self.norm = layer.state_norm
        self.normed_residual = config.norm_before_residual and isinstance(layer, MidLayer)
        self.heads = config.num_attention_heads
        self.query_width = self.heads * config.head_dim
        self.rotary_heads = self.heads + config.num_key_value_heads
        self.kv_parts = (config.num_key_value_heads,) * 2
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
        query_positions = positions
        if queried is not None:
            x, query_positions = x.index_select(0, queried), positions[queried]
        q = self.qkv.rows(0, self.query_width)(x)
        (q,) = self._as_heads(q, reads, query_positions, (self.heads,), 0)
        k, v = self._as_heads(kv, None, positions, self.kv_parts, self.heads)
        return q, k, v

    def projections(
        self,
        hidden: torch.Tensor,  # [A_k, H]
        positions: torch.Tensor,  # int64 [A_k]
        reads: Reads | None = None,  # in the first layer
    ) -> Projections:
        """Later steps: rotated queries [A_k, heads, d], keys and values [A_k, kv_heads, d]."""
        qkv = self.qkv(self.normed(hidden))
        q, k, v = self._as_heads(qkv, reads, positions, (self.heads, *self.kv_parts), 0)
        return q, k, v

    def _as_heads(
        self,
        x: torch.Tensor,  # [N, n d], products
        reads: Reads | None,  # what is added to them
        positions: torch.Tensor,  # int64 [N]
        parts: tuple[int, ...],  # of the n heads
        first: int,  # which of queries, keys and values these begin with
    ) -> tuple[torch.Tensor, ...]:
        """Heads [N, parts[0], d], …, queries and keys rotated."""
        rotated = min(self.rotary_heads - first, sum(parts))
        rows = None if reads is None else reads.rows
        if self.head_gains is not None:  # not linear, so it comes after the sum
            sums = at_least_fp32(x) if rows is None else gathered_sum(x, rows)
            heads = sums.unflatten(-1, (-1, self.config.head_dim))
            gains = self.head_gains[first : first + rotated]
            normed = rms_norm(heads[:, :rotated], gains, self.config.rms_norm_eps)
            x, rows = torch.cat((normed, heads[:, rotated:]), 1).flatten(1), None
        angles = Angles(*self.rotary, positions)
        return rotary_heads(x, rows, angles, parts, rotated, self.dtype)

    def normed(self, hidden: torch.Tensor) -> torch.Tensor:
        """The normed hidden state, input of the projections."""
        return rms_norm(hidden, self.norm.weight, self.norm.eps)

    def finish(self, hidden: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        """Residual [N, H] and attention output [N, heads d] -> output of the layer [N, H]"""
        post = self.layer.post_attention_layernorm
        residual = self.normed(hidden) if self.normed_residual else hidden
        h = residual + self.o_proj(attended)
        x = rms_norm(h, post.weight, post.eps)
        return h + self.down(swiglu(self.gate(x), self.up(x)))
