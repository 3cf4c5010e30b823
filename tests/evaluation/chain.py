"""Chain speculative decoding in plain PyTorch: what an engine does, one prompt at a time.

One round: the draft proposes a chain of tokens, the target checks all of them in one pass, the
longest prefix that equals the target's own greedy choice is kept, and the target's next token is
kept with it. As in SGLang, the draft's row of position t holds the target's state of token t and
the embedding of token t + 1; rows of tokens that were committed are rebuilt from true target
states, and only rows inside a round feed on the draft's own output.

The evaluation decodes in batches (eagle3/evaluation/decoding.py), which are tested against
this form.
"""

from __future__ import annotations

from typing import Any

import torch

from eagle3.draft.model import Eagle3Draft
from eagle3.engines.hf import HFTarget
from eagle3.evaluation.decoding import Decoded
from eagle3.target_model.reader import Head


class DraftChain:
    """The draft with its key/value cache, for one sequence."""

    def __init__(
        self, draft: Eagle3Draft, embedding: torch.Tensor, target_ids: torch.Tensor
    ) -> None:
        """`embedding` [V, H] of the target; `target_ids` int64 [V_draft]."""
        self.draft, self.embedding, self.target_ids = draft, embedding, target_ids
        config = draft.config
        shape = (0, config.num_hidden_layers, config.num_key_value_heads, config.head_dim)
        self.k = embedding.new_empty(shape)  # [S, layers, kv, d]
        self.v = embedding.new_empty(shape)

    def extend(self, aux: torch.Tensor, next_tokens: torch.Tensor) -> torch.Tensor:
        """Add rows of true target states `aux` [n, C H] with the tokens after them [n].

        Returns the hidden state [1, H] of the last row.
        """
        return self._rows(self.draft.project_aux(aux), next_tokens)[-1:]

    def propose(self, hidden: torch.Tensor, count: int) -> list[int]:
        """A chain of `count` tokens after the row that gave `hidden`; the cache stays as it was."""
        saved, chain = (self.k, self.v), list[int]()
        for position in range(count):
            if position > 0:
                hidden = self._rows(hidden, torch.tensor([chain[-1]], device=hidden.device))
            choice = self.draft.logits(hidden)[0].argmax()
            chain.append(int(self.target_ids[choice]))
        self.k, self.v = saved
        return chain

    def _rows(self, hidden: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Run consecutive rows on top of the cache. [n, H], [n] -> [n, H]"""
        start, n = len(self.k), len(tokens)
        positions = torch.arange(start, start + n, device=hidden.device)
        place = torch.arange(start + n, device=hidden.device)
        window = self.draft.config.sliding_window or start + n
        seen = (place <= positions[:, None]) & (place > positions[:, None] - window)  # [n, S]
        new: list[tuple[torch.Tensor, torch.Tensor]] = []
        for number in range(self.draft.config.num_hidden_layers):
            x = self.draft.layer_input(self.embedding[tokens], hidden, number)
            new.append(self.draft.keys_values(x, positions, number))
            k = torch.cat((self.k[:, number], new[-1][0]))
            v = torch.cat((self.v[:, number], new[-1][1]))
            attended = torch.nn.functional.scaled_dot_product_attention(
                self.draft.queries(x, positions, number).transpose(0, 1)[None],
                k.transpose(0, 1)[None],
                v.transpose(0, 1)[None],
                attn_mask=seen,
                enable_gqa=True,
            )
            hidden = self.draft.finish(hidden, attended[0].transpose(0, 1), number)
        self.k, self.v = (
            torch.cat((old, torch.stack(parts, dim=1)))
            for old, parts in zip((self.k, self.v), zip(*new, strict=True), strict=True)
        )
        return hidden


class GreedyTarget:
    """The target with its cache, for one sequence."""

    def __init__(self, engine: HFTarget, head: Head) -> None:
        from transformers import DynamicCache

        self.engine, self.head = engine, head
        self.cache: Any = DynamicCache()
        self.passes = 0

    def run(self, tokens: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Run tokens on top of the cache: aux [n, C H] and last [n, H]."""
        aux, last = self.engine.states(torch.tensor([tokens]), self.cache)
        self.passes += 1
        return aux[0], last[0]

    def keep(self, length: int) -> None:
        """Forget what lies beyond the first `length` tokens."""
        self.cache.crop(length)


@torch.inference_mode()
def decode_plain(
    engine: HFTarget, head: Head, prompt: list[int], max_new: int, stop: set[int]
) -> Decoded:
    """The target's own greedy answer, one token a pass."""
    target, out = GreedyTarget(engine, head), Decoded()
    _, last = target.run(prompt)
    while True:
        best = head.logits(last[-1:]).float()[0].topk(2)
        out.tokens.append(int(best.indices[0]))
        first, second = best.values.tolist()
        out.gaps.append((first - second) / max(abs(first), 1.0))
        if len(out.tokens) == max_new or out.tokens[-1] in stop:
            out.target_passes = target.passes
            return out
        _, last = target.run(out.tokens[-1:])


@torch.inference_mode()
def decode_speculative(
    engine: HFTarget,
    head: Head,
    chain: DraftChain,
    prompt: list[int],
    max_new: int,
    stop: set[int],
    num_speculative_tokens: int,
) -> Decoded:
    """The same answer by chain speculation.

    `committed` counts, for each verify pass, the drafts accepted plus the target's own token. A
    pass in which the answer stops commits only up to the stop token; a pass that runs over
    `max_new` counts whole, and the answer is cut.
    """
    target, out = GreedyTarget(engine, head), Decoded()
    aux, last = target.run(prompt)
    tokens = [*prompt, int(head.logits(last[-1:]).argmax())]
    rows = torch.tensor(tokens[1:], device=aux.device)
    hidden = chain.extend(aux, rows)
    done = tokens[-1] in stop
    while not done and len(tokens) - len(prompt) < max_new:
        drafts = chain.propose(hidden, num_speculative_tokens)
        aux, last = target.run([tokens[-1], *drafts])
        choices = head.logits(last).argmax(-1).tolist()  # [1 + num_speculative_tokens]
        accepted = 0
        while accepted < len(drafts) and drafts[accepted] == choices[accepted]:
            accepted += 1
        new = choices[: accepted + 1]  # equal to the accepted drafts, then the target's own
        ends = [i for i, token in enumerate(new) if token in stop]
        if ends:
            new, done = new[: ends[0] + 1], True
        out.committed.append(len(new))
        target.keep(len(tokens) + len(new) - 1)
        hidden = chain.extend(aux[: len(new)], torch.tensor(new, device=aux.device))
        tokens += new
    out.tokens = tokens[len(prompt) :][:max_new]
    out.target_passes = target.passes
    return out
