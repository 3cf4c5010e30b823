"""Chain decoding of several prompts at once, greedy or sampled.

One round: the draft proposes a chain of tokens, the target checks all of them in one pass, the
longest prefix that the target agrees with is kept, and the target's next token with it. As in
SGLang, the draft's row of position t holds the target's state of token t and the embedding of
token t + 1; rows of committed tokens are rebuilt from true target states, and only rows inside a
round read the draft's own output. Finished sequences leave the batch. Tested against the same
rounds for one prompt at a time (tests/evaluation/chain.py): with float32 both counts are the same,
except where two logits are nearly equal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from eagle3.draft.model import Eagle3Draft
from eagle3.engines.hf import HFTarget
from eagle3.evaluation.caches import DraftBatch, target_batch
from eagle3.evaluation.sampling import Sampling, draw, verify, verify_greedy
from eagle3.target_model.reader import Head

GREEDY = Sampling()


@dataclass
class Decoded:
    """One greedy answer."""

    tokens: list[int] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)  # see `_note_gaps`; plain decoding only
    committed: list[int] = field(default_factory=list)  # tokens kept by each verify pass
    target_passes: int = 0


@dataclass(frozen=True)
class Models:
    """A target and its draft."""

    engine: HFTarget
    head: Head
    draft: Eagle3Draft
    embedding: torch.Tensor  # [V, H] of the target
    target_ids: torch.Tensor  # int64 [V_draft]


@dataclass(frozen=True)
class Limits:
    """Limits of an answer, and of the draft's chain."""

    max_new: int
    stop: set[int]
    num_speculative_tokens: int  # 0: the target alone, one token a pass


@torch.inference_mode()
def decode_batch(
    models: Models,
    prompts: Sequence[Sequence[int]],
    limits: Limits,
    sampling: Sampling = GREEDY,
    seeds: Sequence[int] | None = None,
) -> list[Decoded]:
    """Answers to `prompts`, with counts of the passes.

    `seeds`: of sampling, one for each prompt; its index by default. The random numbers of a prompt
    do not depend on the other prompts of the batch.
    """
    decoding = _Decoding(models, prompts, limits, sampling, seeds or range(len(prompts)))
    decoding.start(prompts)
    while decoding.active:
        decoding.round()
    for answer in decoding.answers:
        answer.tokens = answer.tokens[: limits.max_new]
    return decoding.answers


class _Decoding:
    """The sequences of a batch that are not finished: A of B at any time."""

    def __init__(
        self,
        models: Models,
        prompts: Sequence[Sequence[int]],
        limits: Limits,
        sampling: Sampling,
        seeds: Sequence[int],
    ) -> None:
        self.models, self.limits, self.sampling = models, limits, sampling
        self.count, self.device = limits.num_speculative_tokens, models.engine.device
        self.answers = [Decoded() for _ in prompts]
        self.active = list(range(len(prompts)))  # indices of the unfinished sequences
        self.streams = [_uniform_stream(sampling.seed, seed) for seed in seeds]
        self.target = target_batch(models.engine)
        self.draft: DraftBatch | None = None
        if self.count:
            # beyond the longest answer: one chain past the limit, and its rebuilt rows
            rows = max(map(len, prompts)) + limits.max_new + 2 * (self.count + 1)
            self.draft = DraftBatch(
                models.draft, models.embedding, models.target_ids, len(prompts), rows
            )
        self.newest = self.hidden = torch.empty(0)  # int64 [A], tokens not yet run; [A, H]

    def start(self, prompts: Sequence[Sequence[int]]) -> None:
        """Run the prompts; each gives the first token of its answer."""
        aux, last = self.target.start(prompts)
        logits = self.models.head.logits(last)
        if self.sampling.greedy:
            self.newest = logits.argmax(-1)
        else:
            p = (logits.float() / self.sampling.temperature).softmax(-1)
            self.newest = draw(p, self._uniform(1)[:, 0])
        active = []
        for i, token in enumerate(self.newest.tolist()):
            answer = self.answers[i]
            answer.tokens, answer.target_passes = [token], 1
            if self.limits.max_new > 1 and token not in self.limits.stop:
                active.append(i)
        self._note_gaps(logits)
        if self.draft is not None:
            inputs = torch.zeros(aux.shape[:2], dtype=torch.int64)
            for i, prompt in enumerate(prompts):
                inputs[i, : len(prompt) - 1] = torch.tensor(prompt[1:], dtype=torch.int64)
            inputs, lengths = inputs.to(self.device), self.target.lengths
            inputs[torch.arange(len(prompts), device=self.device), lengths - 1] = self.newest
            self.hidden = self.draft.extend(aux, inputs, torch.zeros_like(lengths), lengths)
        self._continue(active, self.target.lengths.new_zeros(len(active)), 0)

    def round(self) -> None:
        """One verify pass of every active sequence."""
        uniform = self._uniform(2 * self.count + 1)
        start = self.target.lengths  # the position of the newest token
        drafts, q = self.newest.new_empty(len(self.active), 0), None
        if self.draft is not None:
            draft_uniform = uniform[:, : self.count]
            drafts, q = self.draft.propose(self.hidden, start, draft_uniform, self.sampling)
        aux, last = self.target.run(torch.cat((self.newest[:, None], drafts), 1))
        logits = self.models.head.logits(last)  # [A, count + 1, V]
        if self.sampling.greedy:
            accepted, next_tokens = verify_greedy(logits.argmax(-1), drafts)
        else:
            p = (logits.float() / self.sampling.temperature).softmax(-1)
            accepted, next_tokens = verify(
                p, drafts, q, self.models.target_ids, uniform[:, self.count :]
            )
        self._note_gaps(logits[:, 0])
        active, kept_counts = self._append_tokens(drafts, accepted, next_tokens)
        counts = torch.tensor(kept_counts, dtype=torch.int64, device=self.device)
        indices = torch.tensor(active, dtype=torch.int64, device=self.device)
        self.newest = next_tokens
        if self.draft is not None and active:
            self.draft.keep(indices)
            new_tokens = torch.cat((drafts, next_tokens[:, None]), 1)[indices, : max(kept_counts)]
            new_tokens[torch.arange(len(active), device=self.device), counts - 1] = next_tokens[
                indices
            ]
            aux = aux[indices, : max(kept_counts)]
            hidden = self.draft.extend(aux, new_tokens, start[indices], counts)
            self.hidden = self.hidden.new_zeros(len(next_tokens), hidden.shape[-1])
            self.hidden[indices] = hidden
        self._continue(active, counts, self.count + 1)

    def _append_tokens(
        self, drafts: torch.Tensor, accepted: torch.Tensor, next_tokens: torch.Tensor
    ) -> tuple[list[int], list[int]]:
        """Add the tokens of a round to the answers. Returns the rows that continue, and the number
        of tokens that each keeps."""
        active, kept_counts = [], []
        rows = zip(
            self.active, drafts.tolist(), accepted.tolist(), next_tokens.tolist(), strict=True
        )
        for i, (number, chain, accepted_count, token) in enumerate(rows):
            answer, new = self.answers[number], [*chain[:accepted_count], token]
            stops = [index for index, new_token in enumerate(new) if new_token in self.limits.stop]
            new = new[: stops[0] + 1] if stops else new
            answer.tokens += new
            answer.target_passes += 1
            if self.count:
                answer.committed.append(len(new))
            if not stops and len(answer.tokens) < self.limits.max_new:
                active.append(i)
                kept_counts.append(len(new))
        return active, kept_counts

    def _continue(self, active: list[int], counts: torch.Tensor, n: int) -> None:
        """Drop finished sequences; the `active` rows keep `counts` [A] of the last n columns."""
        self.active = [self.active[i] for i in active]
        if not active:
            return
        indices = torch.tensor(active, device=self.device)
        self.target.keep(indices, counts, n)
        self.newest = self.newest[indices]
        if self.draft is not None:
            self.draft.keep(indices)
            self.hidden = self.hidden[indices]

    def _note_gaps(self, logits: torch.Tensor) -> None:
        """Without a draft: record top-1 minus top-2 logit of each sequence, divided by the
        magnitude of the first if that is above one."""
        if self.count == 0:
            best = logits.float().topk(2).values
            gaps = (best[:, 0] - best[:, 1]) / best[:, 0].abs().clamp_min(1.0)
            for number, gap in zip(self.active, gaps.tolist(), strict=True):
                self.answers[number].gaps.append(gap)

    def _uniform(self, count: int) -> torch.Tensor:
        """Uniform numbers in [0, 1) for every active sequence, float64 [A, count]."""
        if self.sampling.greedy:
            return torch.zeros(len(self.active), count, dtype=torch.float64, device=self.device)
        return torch.stack([self.streams[i](count) for i in self.active]).to(self.device)


def _uniform_stream(seed: int, sequence: int) -> Callable[[int], torch.Tensor]:
    """A function that returns the next uniform numbers of one sequence."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + sequence)
    return lambda count: torch.rand(count, generator=generator, dtype=torch.float64)


# the order of summation may decide a gap below this: logits around 30 of a Llama with eight layers
# differ by 1.6e-4 in float32, and rounding errors grow with layers and with logits
TIE = 1e-4


@dataclass(frozen=True)
class Comparison:
    """Speculative against plain greedy output of one prompt."""

    identical: bool
    tie_at: int | None  # index of the first difference if it is a near-tie of the target


def compare(speculative: Decoded, plain: Decoded) -> Comparison:
    """Compare tokens; a difference is excused only at a near-tie of the target's logits."""
    if speculative.tokens == plain.tokens:
        return Comparison(True, None)
    pairs = zip(speculative.tokens, plain.tokens, strict=False)
    difference = next((i for i, (a, b) in enumerate(pairs) if a != b), None)
    if difference is not None and plain.gaps[difference] < TIE:
        return Comparison(False, difference)
    return Comparison(False, None)
