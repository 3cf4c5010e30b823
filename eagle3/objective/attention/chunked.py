r"""The CPU's back end: chunks of active queries against the range of keys that they see.

A chunk is some consecutive active rows; its keys reach from the start of the first one's document
to the last one's row. Only the scores of one chunk are held at a time. The softmax weights of a
chunk with few keys are kept for the backward pass, those of others are recomputed there, so the
memory per query is bounded.

    keys    0 . . . . . . . . . . . . . . T
    chunk 0 [######\                          rows of document 0
    chunk 1 [###########\                     later ones
    chunk 2               [####\[###\         two short documents together
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from eagle3.kernels.matmul import as_factor
from eagle3.objective.attention.interface import Keys, Queries
from eagle3.objective.attention.own_keys import scatter_to_own_rows

CHUNK, FEWEST = 128, 4  # queries per chunk: maximum, and minimum in a very long document
SCORES = 2**21  # maximum of a chunk, over all heads: more keys mean fewer queries
SHORT = 256  # keys up to which a chunk may extend into the next document
MOST_KEPT = 512  # keys up to which a chunk's weights are kept


@dataclass(frozen=True)
class Chunk:
    """Queries first..stop - 1, and the keys that they see."""

    first: int
    stop: int
    first_key: int
    stop_key: int
    mask_from: int  # keys from here on are not seen by every query, relative to first_key

    @property
    def keeps_weights(self) -> bool:
        """Whether the softmax weights are few enough to be kept for the backward pass."""
        return self.stop_key - self.first_key <= MOST_KEPT


def chunks_of(queries: Queries, heads: int) -> list[Chunk]:
    """Cut the queries into chunks."""
    rows, starts = queries.on_host.rows.tolist(), queries.on_host.starts.tolist()
    chunks: list[Chunk] = []
    first = 0
    for stop in range(1, len(rows) + 1):
        full = stop == len(rows) or stop - first == CHUNK
        if not full and stop - first >= FEWEST:
            full = (stop - first + 1) * heads * (rows[stop] + 1 - starts[first]) > SCORES
        if not full and starts[stop] > rows[stop - 1]:  # another document
            full = rows[stop - 1] + 1 - starts[first] > SHORT
        if full:
            same_start = starts[first] == starts[stop - 1]
            chunks.append(
                Chunk(
                    first,
                    stop,
                    starts[first],
                    rows[stop - 1] + 1,
                    rows[first] + 1 - starts[first] if same_start else 0,
                )
            )
            first = stop
    return chunks


class _Scores:
    """Softmax weights of chunks, heads in kv groups of g; built once forward, once backward."""

    def __init__(
        self,
        queries: Queries,
        q: torch.Tensor,  # [A, heads, d]
        k0: torch.Tensor,  # [kv, T, d]
        own_k: Sequence[torch.Tensor],
    ) -> None:
        self.queries, self.k0 = queries, k0
        self.q = (q * q.shape[-1] ** -0.5).unflatten(1, (len(k0), -1))  # [A, kv, g, d]
        self.own_k = picked(own_k, queries, k0)  # [A, kv, k, d]
        self.own_scores = self.q @ self.own_k.mT  # [A, kv, g, k]

    def queries_by_head(self, chunk: Chunk) -> torch.Tensor:
        """A chunk's queries [kv, g c, d]."""
        return by_head(self.q[chunk.first : chunk.stop])

    def weights(self, chunk: Chunk, chunk_queries: torch.Tensor) -> torch.Tensor:
        """[kv, g c, t + k] for the chunk's c queries and the t keys in their range, own keys last;
        `chunk_queries`: its queries by head."""
        own_scores = by_head(self.own_scores[chunk.first : chunk.stop])
        keys = self.k0[:, chunk.first_key : chunk.stop_key]
        size = (*chunk_queries.shape[:2], keys.shape[1] + own_scores.shape[-1])
        scores = torch.empty(size, dtype=chunk_queries.dtype, device=chunk_queries.device)
        shared = scores[..., : keys.shape[1]]
        torch.bmm(chunk_queries, keys.mT, out=shared)
        masked = self._masked_keys(chunk)
        if masked is not None:
            by_group = shared.unflatten(1, (-1, chunk.stop - chunk.first))[..., chunk.mask_from :]
            by_group.masked_fill_(masked, float("-inf"))
        scores[..., keys.shape[1] :] = own_scores
        softmax_dtype = torch.float64 if scores.dtype == torch.float64 else torch.float32
        return scores.softmax(-1, dtype=softmax_dtype).to(scores.dtype)

    def _masked_keys(self, chunk: Chunk) -> torch.Tensor | None:
        """bool [c, keys from mask_from on]: keys that a query must not see; None if there are
        none."""
        begin = chunk.first_key + chunk.mask_from
        if begin >= chunk.stop_key:
            return None
        key = torch.arange(begin, chunk.stop_key, device=self.k0.device)
        span = slice(chunk.first, chunk.stop)
        masked = key > self.queries.rows[span, None]
        if chunk.mask_from == 0:
            masked |= key < self.queries.starts[span, None]
        return masked


def by_head(x: torch.Tensor) -> torch.Tensor:
    """[c, kv, g, n] -> [kv, g c, n]"""
    return x.permute(1, 2, 0, 3).flatten(1, 2)


def by_query(x: torch.Tensor, count: int) -> torch.Tensor:
    """[kv, g c, n] -> [c, kv, g, n], c being `count`"""
    return x.unflatten(1, (-1, count)).permute(2, 0, 1, 3)


def picked(own: Sequence[torch.Tensor], queries: Queries, like: torch.Tensor) -> torch.Tensor:
    """Own keys or values of the queries: k of [A_j, kv, d] -> [A, kv, k, d]"""
    if not own:
        return like.new_empty(len(queries.rows), len(like), 0, like.shape[-1])
    return torch.stack([t[index] for t, index in zip(own, queries.own, strict=True)], dim=2)


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        queries: Queries,
        chunks: list[Chunk],
        q: torch.Tensor,  # [A, heads, d]
        k0: torch.Tensor,  # [kv, T, d]
        v0: torch.Tensor,  # [kv, T, d]
        *own: torch.Tensor,  # own keys, then own values
    ) -> torch.Tensor:
        steps, narrow, inputs = len(own) // 2, q.dtype, (q, k0, v0, *own)
        q, k0, v0, *own_factors = map(as_factor, inputs)
        scores = _Scores(queries, q, k0, own_factors[:steps])
        out, own_weights = torch.empty_like(scores.q), torch.empty_like(scores.own_scores)
        kept_weights = []
        for chunk in chunks:
            keys = slice(chunk.first_key, chunk.stop_key)
            span, count = slice(chunk.first, chunk.stop), chunk.stop - chunk.first
            weights = scores.weights(chunk, scores.queries_by_head(chunk))
            if chunk.keeps_weights and any(ctx.needs_input_grad):
                kept_weights.append(weights.to(narrow))
            shared, own_part = weights.split((weights.shape[-1] - steps, steps), dim=-1)
            out[span] = by_query(torch.bmm(shared, v0[:, keys]), count)
            own_weights[span] = by_query(own_part, count)
        if steps:
            out += own_weights @ picked(own_factors[steps:], queries, v0)
        ctx.queries, ctx.chunks, ctx.steps = queries, chunks, steps
        out = out.to(narrow)
        ctx.save_for_backward(out, *inputs, *kept_weights)
        return out.flatten(1)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        queries, steps = ctx.queries, ctx.steps
        out, *saved = ctx.saved_tensors
        inputs, kept_weights = saved[: 3 + 2 * steps], iter(saved[3 + 2 * steps :])
        dout, out, q, k0, v0, *own = map(as_factor, (grads[0].view_as(out), out, *inputs))
        scores = _Scores(queries, q, k0, own[:steps])
        own_v = picked(own[steps:], queries, v0)  # [A, kv, k, d]
        inner = torch.linalg.vecdot(dout, out)[..., None]  # [A, kv, g, 1]
        d_own = dout @ own_v.mT  # [A, kv, g, k], of weights, then of scores
        own_weights, dq = torch.empty_like(d_own), torch.empty_like(out)
        dk0, dv0 = torch.zeros_like(k0), torch.zeros_like(v0)
        for chunk in ctx.chunks:
            keys = slice(chunk.first_key, chunk.stop_key)
            span, count = slice(chunk.first, chunk.stop), chunk.stop - chunk.first
            chunk_queries = scores.queries_by_head(chunk)
            if chunk.keeps_weights:
                weights = as_factor(next(kept_weights))
            else:
                weights = scores.weights(chunk, chunk_queries)
            t = weights.shape[-1] - steps
            dout_by_head = by_head(dout[span])  # [kv, g c, d]
            d_scores = torch.empty_like(weights)
            torch.bmm(dout_by_head, v0[:, keys].mT, out=d_scores[..., :t])
            d_scores[..., t:] = by_head(d_own[span])
            dv0[:, keys].baddbmm_(weights[..., :t].mT, dout_by_head)
            own_weights[span] = by_query(weights[..., t:], count)
            d_scores.sub_(by_head(inner[span])).mul_(weights)
            dq[span] = by_query(torch.bmm(d_scores[..., :t], k0[:, keys]), count)
            dk0[:, keys].baddbmm_(d_scores[..., :t].mT, chunk_queries)
            d_own[span] = by_query(d_scores[..., t:], count)
        if steps:
            dq += d_own @ scores.own_k
        d_own_k = (d_own.mT @ scores.q).unbind(2) if steps else ()  # [A, kv, d] each
        d_own_v = (own_weights.mT @ dout).unbind(2) if steps else ()
        d_own_rows = scatter_to_own_rows([*d_own_k, *d_own_v], own, queries.own)
        dq = dq.flatten(1, 2).mul_(q.shape[-1] ** -0.5)
        return None, None, *(d.to(inputs[0].dtype) for d in (dq, dk0, dv0, *d_own_rows))


def chunked_attention(q: torch.Tensor, keys: Keys, queries: Queries) -> torch.Tensor:
    """Attention of one step; see `interface.Backend`."""
    heads_first = [t.transpose(0, 1).contiguous() for t in (keys.k0, keys.v0)]  # [kv, T, d]
    own = (*keys.own_k, *keys.own_v)
    out: torch.Tensor = _Chunked.apply(
        queries, chunks_of(queries, q.shape[1]), q, *heads_first, *own
    )
    return out
