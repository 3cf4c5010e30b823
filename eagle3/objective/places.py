"""Where the rows of a pack stand: among its tokens, among its rows of aux, and in what is held."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from eagle3.objective.attention import Queries
from eagle3.objective.pack import Pack
from eagle3.objective.rows import ActiveRows, filled


class Places:
    """Of the active rows (slots) of a pack, on every rank that shares it."""

    def __init__(self, pack: Pack, active: ActiveRows) -> None:
        size, device = len(pack.input_ids), pack.input_ids.device
        row_of_token = torch.full((size,), -1, dtype=torch.int64, device=device)
        row_of_token[pack.row_tokens] = torch.arange(len(pack.row_tokens), device=device)
        self.rows = row_of_token[active.tokens]  # int64 [A_0], among the T rows
        documents = pack.documents[pack.row_tokens]
        self.starts = torch.searchsorted(documents, documents[self.rows])  # int64 [A_0]
        self.positions = pack.positions[active.tokens]

    def queries(self, slots: torch.Tensor, earlier: Sequence[torch.Tensor]) -> Queries:
        """Queries of a step whose rows are `slots`, after steps whose rows were `earlier`."""
        own = [torch.searchsorted(each, slots) for each in earlier]
        return Queries(self.rows[slots], self.starts[slots], own)


class Held:
    """What this rank holds of a pack: all of it, or its share."""

    def __init__(self, pack: Pack, active: ActiveRows, places: Places) -> None:
        self.tokens, self.positions = pack.row_tokens, pack.positions[pack.row_tokens]  # [T_p]
        first = active.steps[0].filled()
        self.read = self.tokens  # int64 [T_p + X], rows whose next token is read here
        if pack.shares is None:
            self.table = None
            self.queried, self.reading = places.rows[first], places.rows[first]
            return
        share, device = pack.shares.mine, pack.input_ids.device
        held = torch.zeros(len(active.tokens), dtype=torch.bool, device=device)
        held[share.slots] = True
        taught = filled(share.taught)
        more = places.rows[share.taught[~held[share.taught]]]  # rows of other ranks
        place = torch.full((len(self.tokens),), -1, dtype=torch.int64, device=device)
        place[torch.cat((share.rows, more))] = torch.arange(
            len(share.rows) + len(more), device=device
        )
        self.tokens, self.positions = self.tokens[share.rows], self.positions[share.rows]
        self.read = torch.cat((self.tokens, pack.row_tokens[more]))
        self.table = torch.full((len(active.tokens),), -1, dtype=torch.int64, device=device)
        self.table[share.taught] = torch.arange(len(share.taught), device=device)
        # int64 [A_0 + copies]: rows of the first step among those of aux; and those whose next
        # tokens later steps read, among `read`
        self.queried, self.reading = place[places.rows[first]], place[places.rows[taught]]

    def of(self, slots: torch.Tensor) -> torch.Tensor:
        """Where the tokens read and the teachers of slots stand among those held here."""
        return slots if self.table is None else self.table[slots]
