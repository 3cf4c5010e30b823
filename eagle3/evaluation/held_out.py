"""Acceptance on held-out hidden states: the counts of chain decoding, without decoding.

Row t of a supervised run represents a verify pass: the draft reads the true states up to t and the
token x_{t+1}, and proposes d_0, d_1, ... for x_{t+2}, x_{t+3}, ... The target's own choices y_k, at
the tokens t + 1 + k, are stored with its states.

    x       ... prompt  I  like  green  tea  <eot>          row t reads "I", chain length 3
    y                     like  green  tea  <eot>           the target's choices
    d                     like  green  milk                 two drafts accepted

The token after a choice is known only where the text contains that choice. So a row counts at depth
k if the text is the target's choice at the k tokens before and the run has a choice there: a
condition on the text only, the same for every draft. A draft token is accepted if it and all before
it are the target's choices; a choice outside the draft vocabulary ends every chain.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from eagle3.draft.model import Eagle3Draft
from eagle3.errors import UserError
from eagle3.evaluation.acceptance import acceptance, rows_acceptance
from eagle3.objective.pack import Pack
from eagle3.objective.ttt import Objective, TargetParts, right_choices


@dataclass(frozen=True)
class SupervisedRun:
    """Consecutive rows of one supervised run, A of them; K is the length of a chain."""

    right: np.ndarray  # bool [A, K], draft k is the target's choice
    agrees: np.ndarray  # bool [A], the text continues with the target's choice
    stopped: bool  # the text ends with a token at which generation stops

    def counts(self) -> tuple[np.ndarray, np.ndarray]:
        """int64 [K] each: rows whose first k + 1 drafts are accepted, and rows that count."""
        size, depth = self.right.shape
        accepted, counted = np.zeros(depth, np.int64), np.zeros(depth, np.int64)
        alive, joint = np.ones(size, bool), np.ones(size, bool)
        for k in range(min(depth, size)):
            alive, joint = alive[: size - k], joint[: size - k] & self.right[: size - k, k]
            accepted[k], counted[k] = (alive & joint).sum(), alive.sum()
            alive = alive & self.agrees[k:]
        return accepted, counted

    def walk(self) -> list[int]:
        """Tokens committed by each verify pass of one decoding of the run.

        A pass that accepts a drafts is followed by row t + a + 1. It counts if the text determines
        its outcome for every draft: not where the text departs from the target's choices inside the
        chain, nor where the run is cut before the chain ends.
        """
        size, depth = self.right.shape
        committed, row = [], 0
        while row < size:
            remaining = size - row
            width = min(depth, remaining)
            right, agrees = self.right[row, :width], self.agrees[row : row + width]
            accepted = _leading_true(right)
            ends = self.stopped and bool(agrees.all())
            if ends if remaining < depth else agrees[:-1].all():
                new = accepted + 1
                if self.stopped and self.agrees[-1]:
                    new = min(new, remaining)  # nothing after the stop token is counted
                committed.append(new)
            row += _leading_true(right & agrees) + 1
        return committed


def simulate(
    draft: Eagle3Draft,
    target: TargetParts,
    packs: Iterable[Pack],
    dtype: torch.dtype,
    depth: int,
    stop: set[int],
) -> dict[str, Any]:
    """Figures over all rows and over the walks, with intervals that resample documents.

    `packs`: held-out documents; `dtype`: of the draft's products; `depth`: drafts of a chain;
    `stop`: tokens at which the target stops. Raises UserError if no document has a row.
    """
    objective = Objective(steps=depth, dtype=dtype)
    accepted, counted, committed = [], [], []
    agreed, choices = 0, 0
    for pack in packs:
        for runs in runs_of(draft, target, pack, objective, stop):
            run_counts = [run.counts() for run in runs]
            accepted.append(sum(accepted_rows for accepted_rows, _ in run_counts))
            counted.append(sum(counted_rows for _, counted_rows in run_counts))
            committed.append([tokens for run in runs for tokens in run.walk()])
            agreed += sum(int(run.agrees.sum()) for run in runs)
            choices += sum(len(run.agrees) for run in runs)
    check_scorable(len(accepted))
    figures = rows_acceptance(np.array(accepted), np.array(counted))
    return {
        **figures,
        "walk": acceptance(committed, depth),
        "documents": len(accepted),
        "num_speculative_tokens": depth,
        # share of tokens that are the target's own choice
        "text_agreement": agreed / choices,
    }


def check_scorable(count: int) -> None:
    """Raise UserError if `count`, the number of documents with a row, is 0."""
    if not count:
        raise UserError(
            "evaluation.held_out_samples: no held-out conversation has two supervised tokens in a "
            "row, so no checkpoint can be scored; raise it or dataset.eval_fraction"
        )


def runs_of(
    draft: Eagle3Draft, target: TargetParts, pack: Pack, objective: Objective, stop: set[int]
) -> list[list[SupervisedRun]]:
    """The runs of each document with rows of a pack, in order."""
    right = right_choices(draft, pack, target, objective)
    tokens = pack.last_tokens - 1  # the state at token t + 1 teaches row t
    agrees = (pack.input_ids[tokens + 2] == pack.teacher_argmax).cpu().numpy()
    positions, outcome = tokens.cpu().numpy(), right.cpu().numpy()
    documents, ids = pack.documents.cpu().numpy()[positions], pack.input_ids.cpu().numpy()
    # two runs are never adjacent: an unsupervised token is between them
    starts = np.flatnonzero((np.diff(positions) != 1) | (np.diff(documents) != 0)) + 1
    by_document: dict[int, list[SupervisedRun]] = {}
    for rows in np.split(np.arange(len(positions)), starts):
        if len(rows):
            stopped = int(ids[positions[rows[-1]] + 2]) in stop
            run = SupervisedRun(outcome[rows], agrees[rows], stopped)
            by_document.setdefault(int(documents[rows[0]]), []).append(run)
    return list(by_document.values())


def _leading_true(flags: np.ndarray) -> int:
    """The number of flags before the first that is not set."""
    return len(flags) if flags.all() else int(flags.argmin())
