"""Target and draft with their caches, for several sequences of different lengths.

The target's cache is right-aligned: before each pass the columns of a sequence are its tokens
without gaps and end at the last column, whatever was rejected before. So transformers needs only a
binary mask, and sliding windows are complete:

    before a pass      . . a a a          after it, 2 and 1 kept      . a a a a a
                       b b b b b                                      b b b b b b
    the pass adds                x y z    (one column each for the last token and the drafts)

The draft's rows are stored at the index of their position; rows after the last one that a round
keeps are overwritten before they are read. Finished sequences leave the batch. A target
with recurrent layers has no such cache and runs the whole texts in every pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from typing import Any

import torch

from eagle3.draft.model import Eagle3Draft
from eagle3.engines.hf import HFTarget
from eagle3.evaluation.sampling import Sampling, draw


class TargetBatch:
    """The target with its cache, for some sequences."""

    def __init__(self, engine: HFTarget) -> None:
        from transformers import DynamicCache

        self.engine = engine
        self.cache: Any = DynamicCache()
        self.lengths = torch.zeros(0, dtype=torch.int64)  # [B], tokens in the cache

    def start(self, prompts: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Run prompts, padded on the right: aux [B, L, C H] and the state of each last token
        [B, H]."""
        device = self.engine.device
        self.lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
        ids = torch.nn.utils.rnn.pad_sequence(
            [torch.tensor(prompt) for prompt in prompts], batch_first=True
        )
        aux, last = self.engine.states(ids, self.cache)
        rows = torch.arange(len(prompts), device=device)
        self._align(rows, self.lengths, self.lengths)
        return aux, last[rows, self.lengths - 1]

    def run(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Run `tokens` [B, n] on top of the cache: aux [B, n, C H] and last [B, n, H]."""
        columns, n = self.cache.get_seq_length(), tokens.shape[1]
        column = torch.arange(columns + n, device=tokens.device)
        mask = column >= columns - self.lengths[:, None]  # [B, columns + n]
        positions = self.lengths[:, None] + torch.arange(n, device=tokens.device)
        return self.engine.states(
            tokens, self.cache, attention_mask=mask.long(), position_ids=positions
        )

    def keep(self, rows: torch.Tensor, counts: torch.Tensor, n: int) -> None:
        """Keep the sequences `rows` int64 [A], and of their last `n` columns the first `counts`
        [A]; drop everything else."""
        columns = self.cache.get_seq_length() - n
        lengths = self.lengths[rows] + counts
        if bool((counts == n).all()) and len(rows) == len(self.lengths):
            self.lengths = lengths
            return
        self._align(rows, columns + counts, lengths)

    def _align(self, rows: torch.Tensor, ends: torch.Tensor, lengths: torch.Tensor) -> None:
        """Move each sequence's columns, `lengths` [A] of them before `ends` [A], to the right."""
        width = int(lengths.max())
        column = torch.arange(width, device=rows.device)
        source = (ends[:, None] - width + column).clamp(
            min=0
        )  # [A, width]; columns left of a sequence are masked
        for layer in self.cache.layers:
            for name in ("keys", "values"):
                states = getattr(layer, name)  # [B, kv, S, d]
                index = source.to(states.device)[:, None, :, None]
                moved = states[rows.to(states.device)].gather(
                    2, index.expand(-1, states.shape[1], -1, states.shape[3])
                )
                setattr(layer, name, moved)
        self.lengths = lengths


class WholeTexts:
    """`TargetBatch` without a cache: every pass runs the whole texts again.

    For targets with recurrent layers, whose state cannot be rolled back after a rejected token.
    """

    def __init__(self, engine: HFTarget) -> None:
        self.engine = engine
        self.ids = torch.zeros(0, 0, dtype=torch.int64)  # [B, S], padded on the right
        self.lengths = torch.zeros(0, dtype=torch.int64)  # [B]

    def start(self, prompts: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """See `TargetBatch`."""
        device = self.engine.device
        self.lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
        self.ids = torch.nn.utils.rnn.pad_sequence(
            [torch.tensor(prompt) for prompt in prompts], batch_first=True
        ).to(device)
        aux, last = self.engine.states(self.ids)
        return aux, last[torch.arange(len(prompts), device=device), self.lengths - 1]

    def run(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See `TargetBatch`."""
        rows = torch.arange(len(tokens), device=tokens.device)[:, None]
        positions = self.lengths[:, None] + torch.arange(tokens.shape[1], device=tokens.device)
        ids = self.ids.new_zeros(len(tokens), int(positions.max()) + 1)
        filled = min(self.ids.shape[1], ids.shape[1])
        ids[:, :filled] = self.ids[:, :filled]
        ids[rows, positions] = tokens
        self.ids = ids
        aux, last = self.engine.states(ids)  # causal: padding on the right is not seen
        return aux[rows, positions], last[rows, positions]

    def keep(self, rows: torch.Tensor, counts: torch.Tensor, n: int) -> None:
        """See `TargetBatch`; dropped tokens of the last `n` are overwritten later."""
        self.ids, self.lengths = self.ids[rows], self.lengths[rows] + counts


def target_batch(engine: HFTarget) -> TargetBatch | WholeTexts:
    """The target for some sequences, with a cache if it consists of keys and values only."""
    from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

    layers = DynamicCache(config=engine.body.config).layers
    # other layers cache more: the keys of an indexer, the state of a recurrence
    plain_layers = all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)
    recurrent = getattr(engine.body, "_is_stateful", False)
    takes_cache = (
        "past_key_values" in signature(engine.body.forward).parameters
    )  # the first GPT's does not
    cross_attention = bool(getattr(engine.body.config, "cross_attention_layers", None))  # of texts
    usable = plain_layers and takes_cache and not recurrent and not cross_attention
    return TargetBatch(engine) if usable else WholeTexts(engine)


class DraftBatch:
    """The draft with its keys and values, for some sequences."""

    def __init__(
        self,
        draft: Eagle3Draft,
        embedding: torch.Tensor,
        target_ids: torch.Tensor,
        sequences: int,
        max_rows: int,
    ) -> None:
        """`embedding` [V, H] of the target; `target_ids` int64 [V_draft]; `max_rows`: of a
        sequence."""
        self.draft, self.embedding, self.target_ids = draft, embedding, target_ids
        config = draft.config
        shape = (sequences, max_rows, config.num_key_value_heads, config.head_dim)
        layers = range(config.num_hidden_layers)
        self.k = [embedding.new_zeros(shape) for _ in layers]  # [B, S, kv, d] of each layer
        self.v = [embedding.new_zeros(shape) for _ in layers]

    def keep(self, rows: torch.Tensor) -> None:
        """Keep only the sequences `rows`."""
        if len(rows) < len(self.k[0]):
            self.k, self.v = ([part[rows] for part in cache] for cache in (self.k, self.v))

    def extend(
        self, aux: torch.Tensor, tokens: torch.Tensor, start: torch.Tensor, counts: torch.Tensor
    ) -> torch.Tensor:
        """Add rows of true target states `aux` [B, n, C H] and the next tokens [B, n], from
        position `start` [B] on; the first `counts` [B] of them are valid, the rest padding.

        Returns the hidden state [B, H] of each last valid row.
        """
        positions = start[:, None] + torch.arange(tokens.shape[1], device=tokens.device)
        hidden = self._rows(self.draft.project_aux(aux), tokens, positions)
        return hidden[torch.arange(len(hidden), device=hidden.device), counts - 1]

    def propose(
        self, hidden: torch.Tensor, start: torch.Tensor, uniform: torch.Tensor, sampling: Sampling
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Chains after the rows that gave `hidden` [B, H], the first new one at position `start`.

        `uniform` [B, n] for n drafts. Returns drafts int64 [B, n], and the distributions
        [B, n, V_draft] that they were drawn from, None for argmax proposals.
        """
        chains: list[torch.Tensor] = []
        distributions: list[torch.Tensor] = []
        for step in range(uniform.shape[1]):
            if step > 0:
                positions = start[:, None] + step - 1
                hidden = self._rows(hidden[:, None], chains[-1][:, None], positions)[:, 0]
            logits = self.draft.logits(hidden)  # [B, V_draft]
            if sampling.greedy or sampling.proposals == "argmax":
                choice = logits.argmax(-1)
            else:
                q = (logits.float() / sampling.temperature).softmax(-1)
                distributions.append(q)
                choice = draw(q, uniform[:, step])
            chains.append(self.target_ids[choice])
        drafts = torch.stack(chains, 1)
        return drafts, torch.stack(distributions, 1) if distributions else None

    def _rows(
        self, hidden: torch.Tensor, tokens: torch.Tensor, positions: torch.Tensor
    ) -> torch.Tensor:
        """Run rows at consecutive positions [B, n] on top of the cache. [B, n, H] -> same shape"""
        (batch, n), device, draft = tokens.shape, tokens.device, self.draft
        flat, flat_positions = hidden.flatten(0, 1), positions.flatten()
        embedded = self.embedding[tokens.flatten()]
        sequence = torch.arange(batch, device=device)[:, None]
        columns = int(positions.max()) + 1
        column = torch.arange(columns, device=device)
        visible = column <= positions[..., None]  # [B, n, S]
        if draft.config.sliding_window is not None:
            visible &= column > positions[..., None] - draft.config.sliding_window
        for number, (all_k, all_v) in enumerate(zip(self.k, self.v, strict=True)):
            x = draft.layer_input(embedded, flat, number)
            k, v = draft.keys_values(x, flat_positions, number)
            q = draft.queries(x, flat_positions, number).unflatten(0, (batch, n))
            all_k[sequence, positions] = k.unflatten(0, (batch, n))
            all_v[sequence, positions] = v.unflatten(0, (batch, n))
            attended = torch.nn.functional.scaled_dot_product_attention(
                q.transpose(1, 2),
                all_k[:, :columns].transpose(1, 2),
                all_v[:, :columns].transpose(1, 2),
                attn_mask=visible[:, None],
                enable_gqa=True,
            )
            flat = draft.finish(flat, attended.transpose(1, 2).flatten(0, 1), number)
        return flat.unflatten(0, (batch, n))
