"""Which rows take part at which step of the training-time test.

Row t of a document at step k predicts x_{t+2+k} from the hidden state of row t and the token
x_{t+1+k}. It is *active* iff the chain up to there could have happened in serving:

    x:      the   cat  <eot>  <asst>   I    am    a   cat  <eot>
    mask:    0     0     0      0      1    1     1    1     1
                             t = 3  o--+--> k = 0 predicts "am"   (x_4 came from the server)
                                    o-----+--> k = 1 predicts "a" (x_5 accepted, so it must be
                                                                   in the draft vocabulary)

* m_{t+1}, ..., m_{t+2+k} are all 1 inside one document, and
* x_{t+2}, ..., x_{t+1+k} are in the draft vocabulary (x_{t+1} may be any token).

Sets are nested: a row that leaves never comes back. The mask alone gives the larger set that
metrics are divided by: a row that the draft vocabulary cut off is a miss there.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class StepRows:
    """Rows of one step."""

    tokens: torch.Tensor  # int64 [A_k], token index of each active row, ascending
    kept: torch.Tensor  # int64 [A_k], where each was in the previous step's list
    in_mask: int  # rows that the mask alone would allow: the denominator of metrics


def run_lengths(flags: torch.Tensor, documents: torch.Tensor) -> torch.Tensor:
    """int64 [N]: how many consecutive flags are set from each position on, inside its document.

    `flags` bool [N], `documents` int64 [N] ascending document numbers.
    """
    size = len(flags)
    index = torch.arange(size, device=flags.device)
    last_of_document = torch.ones_like(flags)
    last_of_document[:-1] = documents[1:] != documents[:-1]
    # the first position at or after each one where the run is over: a cleared flag, or one past
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
) -> list[StepRows]:
    """Active rows of steps 0..steps-1 over the tokens of a pack."""
    supervised = _padded(run_lengths(loss_mask, documents))
    known = _padded(run_lengths(in_draft_vocab[input_ids], documents))
    index = torch.arange(len(input_ids), device=input_ids.device)
    # x_{t+1} must follow x_t in the same document; a run from t + 1 then stays inside it
    inside = torch.zeros_like(loss_mask)
    inside[:-1] = documents[1:] == documents[:-1]
    found: list[StepRows] = []
    for k in range(steps):
        allowed = inside & (supervised[index + 1] >= k + 2)
        active = (allowed & (known[index + 2] >= k)).nonzero().flatten()
        before = found[-1].tokens if found else active
        kept = torch.searchsorted(before, active)
        found.append(StepRows(active, kept, int(allowed.sum())))
    return found


def _padded(runs: torch.Tensor) -> torch.Tensor:
    """Two zeros more, so that positions t + 1 and t + 2 can always be looked up."""
    return torch.cat((runs, runs.new_zeros(2)))
