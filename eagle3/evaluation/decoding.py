"""Chain decoding of several prompts at once, greedy or sampled.

One round: the draft proposes a chain of tokens, the target checks all of them in one pass, the
longest prefix that the target agrees with is kept, and the target's next token with it. As in
SGLang, the draft's row of position t holds the target's state of token t and the embedding of
token t + 1; rows of tokens that were committed are rebuilt from true target states, and only rows
inside a round feed on the draft's own output. Sequences that are done leave the batch. Tested
against the same rounds for one prompt at a time (tests/evaluation/chain.py): with float32 both
counts are the same, except where two logits are nearly equal.
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
    """A target and a draft that proposes for it."""

    engine: HFTarget
    head: Head
    draft: Eagle3Draft
    embedding: torch.Tensor  # [V, H] of the target
    target_ids: torch.Tensor  # int64 [V_draft]


@dataclass(frozen=True)
class Limits:
    """How far an answer goes."""

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
    """Answers to `prompts`, with the counts of the passes that it took.

    `seeds` of sampling, one for each prompt, else its number: what is drawn for a prompt does not
    depend on the other prompts of the batch.
    """
    decoding = _Decoding(models, prompts, limits, sampling, seeds or range(len(prompts)))
    decoding.start(prompts)
    while decoding.going:
        decoding.round()
    for answer in decoding.answers:
        answer.tokens = answer.tokens[: limits.max_new]
    return decoding.answers


class _Decoding:
    """The sequences of a batch that are not done. A of B are left at any time."""

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
        self.going = list(range(len(prompts)))  # numbers of the sequences that are left
        self.numbers = [_numbers(sampling.seed, seed) for seed in seeds]
        self.target = target_batch(models.engine)
        self.draft: DraftBatch | None = None
        if self.count:
            # beyond the last answer: one chain that ran over, and its rows rebuilt
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
            self.newest = draw(p, self._drawn(1)[:, 0])
        stays = []
        for i, token in enumerate(self.newest.tolist()):
            answer = self.answers[i]
            answer.tokens, answer.target_passes = [token], 1
            if self.limits.max_new > 1 and token not in self.limits.stop:
                stays.append(i)
        self._note_gaps(logits)
        if self.draft is not None:
            reads = torch.zeros(aux.shape[:2], dtype=torch.int64)
            for i, prompt in enumerate(prompts):
                reads[i, : len(prompt) - 1] = torch.tensor(prompt[1:], dtype=torch.int64)
            reads, lengths = reads.to(self.device), self.target.lengths
            reads[torch.arange(len(prompts), device=self.device), lengths - 1] = self.newest
            self.hidden = self.draft.extend(aux, reads, torch.zeros_like(lengths), lengths)
        self._go_on(stays, self.target.lengths.new_zeros(len(stays)), 0)

    def round(self) -> None:
        """One verify pass of every sequence that is left."""
        uniform = self._drawn(2 * self.count + 1)
        start = self.target.lengths  # the position of the newest token
        drafts, q = self.newest.new_empty(len(self.going), 0), None
        if self.draft is not None:
            proposing = uniform[:, : self.count]
            drafts, q = self.draft.propose(self.hidden, start, proposing, self.sampling)
        aux, last = self.target.run(torch.cat((self.newest[:, None], drafts), 1))
        logits = self.models.head.logits(last)  # [A, count + 1, V]
        if self.sampling.greedy:
            accepted, own = verify_greedy(logits.argmax(-1), drafts)
        else:
            p = (logits.float() / self.sampling.temperature).softmax(-1)
            accepted, own = verify(p, drafts, q, self.models.target_ids, uniform[:, self.count :])
        self._note_gaps(logits[:, 0])
        stays, kept = self._take(drafts, accepted, own)
        counts = torch.tensor(kept, dtype=torch.int64, device=self.device)
        places = torch.tensor(stays, dtype=torch.int64, device=self.device)
        self.newest = own
        if self.draft is not None and stays:
            self.draft.keep(places)
            new_tokens = torch.cat((drafts, own[:, None]), 1)[places, : max(kept)]
            new_tokens[torch.arange(len(stays), device=self.device), counts - 1] = own[places]
            aux = aux[places, : max(kept)]
            hidden = self.draft.extend(aux, new_tokens, start[places], counts)
            self.hidden = self.hidden.new_zeros(len(own), hidden.shape[-1])
            self.hidden[places] = hidden
        self._go_on(stays, counts, self.count + 1)

    def _take(
        self, drafts: torch.Tensor, accepted: torch.Tensor, own: torch.Tensor
    ) -> tuple[list[int], list[int]]:
        """Add the tokens of a round to the answers. Returns the sequences that go on, and the
        number of tokens that each keeps."""
        stays, kept = [], []
        rows = zip(self.going, drafts.tolist(), accepted.tolist(), own.tolist(), strict=True)
        for i, (number, chain, right, token) in enumerate(rows):
            answer, new = self.answers[number], [*chain[:right], token]
            ends = [place for place, new_token in enumerate(new) if new_token in self.limits.stop]
            new = new[: ends[0] + 1] if ends else new
            answer.tokens += new
            answer.target_passes += 1
            if self.count:
                answer.committed.append(len(new))
            if not ends and len(answer.tokens) < self.limits.max_new:
                stays.append(i)
                kept.append(len(new))
        return stays, kept

    def _go_on(self, stays: list[int], kept: torch.Tensor, n: int) -> None:
        """Leave those that are done; the others keep `kept` [A] of the last n columns."""
        self.going = [self.going[i] for i in stays]
        if not stays:
            return
        places = torch.tensor(stays, device=self.device)
        self.target.keep(places, kept, n)
        self.newest = self.newest[places]
        if self.draft is not None:
            self.draft.keep(places)
            self.hidden = self.hidden[places]

    def _note_gaps(self, logits: torch.Tensor) -> None:
        """Top-1 minus top-2 logit of each sequence, over the size of the first where that is above
        one; without a draft."""
        if self.count == 0:
            best = logits.float().topk(2).values
            gaps = (best[:, 0] - best[:, 1]) / best[:, 0].abs().clamp_min(1.0)
            for number, gap in zip(self.going, gaps.tolist(), strict=True):
                self.answers[number].gaps.append(gap)

    def _drawn(self, count: int) -> torch.Tensor:
        """Numbers in [0, 1) for every sequence that is left, float64 [A, count]."""
        if self.sampling.greedy:
            return torch.zeros(len(self.going), count, dtype=torch.float64, device=self.device)
        return torch.stack([self.numbers[i](count) for i in self.going]).to(self.device)


def _numbers(seed: int, sequence: int) -> Callable[[int], torch.Tensor]:
    """The random numbers of one sequence, in order."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + sequence)
    return lambda count: torch.rand(count, generator=generator, dtype=torch.float64)


# a gap below this may fall either way between two orders of summation: logits around 30 of a Llama
# with eight layers differ by 1.6e-4 in float32, and rounding grows with layers and with logits
TIE = 1e-4


@dataclass(frozen=True)
class Comparison:
    """Speculative against plain greedy output of one prompt."""

    identical: bool
    tie_at: int | None  # where they part at a near-tie of the target, else None


def compare(speculative: Decoded, plain: Decoded) -> Comparison:
    """Token for token; a difference is excused only at a near-tie of the target's logits."""
    if speculative.tokens == plain.tokens:
        return Comparison(True, None)
    pairs = zip(speculative.tokens, plain.tokens, strict=False)
    first = next((i for i, (a, b) in enumerate(pairs) if a != b), None)
    if first is not None and plain.gaps[first] < TIE:
        return Comparison(False, first)
    return Comparison(False, None)
