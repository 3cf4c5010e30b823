"""The rows that take part in each step of the training-time test.

Row t of a document at step k predicts x_{t+2+k} from the hidden state of row t and the token
x_{t+1+k}. It is *active* iff the chain up to there could have happened in serving:

    x:      the   cat  <eot>  <asst>   I    am    a   cat  <eot>
    mask:    0     0     0      0      1    1     1    1     1
                             t = 3  o--+--> k = 0 predicts "am"   (x_4 came from the server)
                                    o-----+--> k = 1 predicts "a" (x_5 accepted, so it must be
                                                                   in the draft vocabulary)

* m_{t+1}, ..., m_{t+2+k} are all 1 inside one document, and
* x_{t+2}, ..., x_{t+1+k} are in the draft vocabulary (x_{t+1} may be any token).

Sets are nested: an inactive row stays inactive. The mask alone gives the larger set that metrics
are divided by: there, a row that the draft vocabulary cut off is a miss. Optionally, the mask alone
decides which rows are trained; metrics still count only what serving can reach.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch


@dataclass(frozen=True)
class ActiveRows:
    """Rows of all steps. A slot is a place in the list of step 0.

    Row t at step k reads token t + 1 + k and is taught by the state there, as row t + k is at step
    0. All of these are in one run of supervised tokens, so row t + k is active at step 0, and its
    slot is that of row t plus k.
    """

    tokens: torch.Tensor  # int64 [A_0], token index of each row of step 0, ascending
    last: torch.Tensor  # int64 [A_0], the last step at which each is active
    reach: torch.Tensor  # int64 [A_0], and at which serving can reach it: `last`, or less
    allowed: torch.Tensor  # int64 [A_0], and at which the mask alone would allow it
    slots: list[torch.Tensor]  # int64 [A_k] for each step, ascending

    @cached_property
    def depth(self) -> int:
        """Steps that have a row."""
        return min(int(self.last.max()) + 1 if len(self.last) else 0, len(self.slots))


def run_lengths(flags: torch.Tensor, documents: torch.Tensor) -> torch.Tensor:
    """int64 [N]: how many consecutive flags are set from each position on, inside its document.

    `flags` bool [N], `documents` int64 [N] ascending document numbers.
    """
    size = len(flags)
    index = torch.arange(size, device=flags.device)
    last_of_document = torch.ones_like(flags)
    last_of_document[:-1] = documents[1:] != documents[:-1]
    # the first position at or after each one where the run has ended: a cleared flag, or one past
    # the end of the document
    stop = torch.where(flags, torch.where(last_of_document, index + 1, size + 1), index)
    stop = stop.flip(0).cummin(0).values.flip(0)
    return stop - index


def step_rows(
    input_ids: torch.Tensor,  # int64 [N]
    loss_mask: torch.Tensor,  # bool [N]
    documents: torch.Tensor,  # int64 [N]
    in_draft_vocab: torch.Tensor,  # bool [V]
    steps: int,
    by_mask: bool = False,
) -> ActiveRows:
    """Active rows of steps 0..steps-1 over the tokens of a pack. `by_mask`: the first of the two
    conditions is enough."""
    supervised = _padded(run_lengths(loss_mask, documents))
    in_vocab_runs = _padded(run_lengths(in_draft_vocab[input_ids], documents))
    index = torch.arange(len(input_ids), device=input_ids.device)
    # x_{t+1} must follow x_t in the same document; a run from t + 1 then stays inside it
    inside = torch.zeros_like(loss_mask)
    inside[:-1] = documents[1:] == documents[:-1]
    run = torch.where(inside, supervised[index + 1], 0)  # supervised tokens in a row from t + 1
    tokens = (run >= 2).nonzero().flatten()
    # the last step at which each row is active: both runs must be long enough
    allowed = run[tokens] - 2
    reach = torch.minimum(allowed, in_vocab_runs[tokens + 2])
    last = allowed if by_mask else reach
    slots = [(last >= k).nonzero().flatten() for k in range(steps)]
    return ActiveRows(tokens, last, reach, allowed, slots)


def _padded(runs: torch.Tensor) -> torch.Tensor:
    """`runs` with two zeros appended, so that positions t + 1 and t + 2 are always valid."""
    return torch.cat((runs, runs.new_zeros(2)))
