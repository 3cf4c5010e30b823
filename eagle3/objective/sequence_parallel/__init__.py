"""Sequence parallelism: several ranks share a pack. Without it, only `SequenceSharding.of` is
called, and returns None.

The objective (`objective.ttt`) is defined on two things only: an index of rows, and attention among
them. `objective.dispatch` provides both, and is where this package plugs in:

    objective            one rank                    ranks that share a pack
    index of rows        row_index.whole_index       local_rows.local_index: the rows computed here
    attention            interface.PackAttention     attention.GatheredKeys or Ulysses around it

Everything else works row by row, independently of ranks: a rank computes fewer rows, and loss,
totals and gradients add up to those of the whole pack.

    sharding       which rows each rank has, decided from tokens and masks before states are read
    local_rows     the index of these rows
    attention      what is exchanged before and after attention
    collectives    the exchanges, differentiable

All ranks of a pack call the same collectives in the same order, forward and backward, even without
a row: every step that has a row anywhere is computed everywhere, its attention always joins the
exchange, and the loss always has a graph. With `recompute`, `torch.utils.checkpoint` computes a
step again up to the last tensor that it kept. The layer keeps tensors after attention, so
recomputation includes the exchange on every rank.
"""
