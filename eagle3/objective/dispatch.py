"""The only module that connects the objective with ranks and kernels.

`ttt` is defined on the rows of a pack and on attention among them. Both cover the whole pack on one
rank and this rank's part under sequence parallelism, and are padded to shapes that suit kernels.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from eagle3.draft.config import DraftConfig
from eagle3.errors import UserError
from eagle3.kernels.compiled import compiles_for_cuda
from eagle3.objective.attention.chunked import chunked_attention
from eagle3.objective.attention.flash import flash_attention
from eagle3.objective.attention.flex import prefix_flex_attention
from eagle3.objective.attention.interface import (
    Attention,
    Backend,
    PackAttention,
    reference_attention,
)
from eagle3.objective.attention.limits import (
    FLEX_NARROW,
    FLEX_WIDE_BYTES,
    check_window,
    unsupported_reason,
)
from eagle3.objective.bucketing import in_buckets
from eagle3.objective.pack import Pack
from eagle3.objective.row_index import (
    Prefixes,
    RowIndex,
    count_layers,
    sent_queries,
    whole_index,
)
from eagle3.objective.rows import step_rows
from eagle3.objective.sequence_parallel.attention import exchanging_attention
from eagle3.objective.sequence_parallel.local_rows import local_index
from eagle3.objective.settings import Objective, TargetParts

BACKENDS: dict[str, Backend] = {
    "chunked": chunked_attention,
    "flash": flash_attention,
    "flex": prefix_flex_attention,
    "reference": reference_attention,
}


def dispatch(
    pack: Pack, target: TargetParts, objective: Objective, draft: DraftConfig
) -> tuple[RowIndex, Attention]:
    """The rows that are computed here, and attention among them."""
    name, sharded, device = objective.attention, pack.shards is not None, pack.aux.device
    layers, window = draft.num_hidden_layers, draft.sliding_window
    backend = choose_backend(
        name, device, objective.dtype, draft.head_dim, sharded or window is not None
    )
    if window is not None:
        check_window(name, window, objective.steps)
    columns = pack.columns
    active = step_rows(
        columns.input_ids,
        columns.loss_mask,
        columns.documents,
        target.host_draft_ids >= 0,
        objective.steps,
        by_mask=objective.active_rows == "supervised",
    )
    prefixes = Prefixes.of(columns, active, window)
    if pack.shards is None:
        queries = prefixes.queries(active.slots[: active.depth])
        index = whole_index(columns, active, prefixes)
        if layers > 1:
            queries.append(prefixes.every())
            count_layers(index.totals, queries[-1], layers)
        attention: Attention = PackAttention(backend, sent_queries(queries, device))
    else:
        index = local_index(columns, active, prefixes, pack.shards.local)
        if layers > 1:
            count_layers(index.totals, prefixes.every(pack.shards.local.rows), layers)
        attention = exchanging_attention(
            name == "usp", backend, active, prefixes, pack.shards, draft, device
        )
    index, attention = in_buckets(index, attention)
    return index.to(device), attention


def teachers_in_draft_vocab(pack: Pack, target: TargetParts, index: RowIndex) -> torch.Tensor:
    """bool [R]: teachers whose argmax is in the draft vocabulary, on the device of the index, or on
    the host if it was built there."""
    if index.host is None:
        return target.draft_ids[pack.teacher_argmax] >= 0
    return target.host_draft_ids[pack.columns.teacher_argmax] >= 0


def choose_backend(
    name: str, device: torch.device, dtype: torch.dtype, head_dim: int, partial: bool = False
) -> Backend:
    """The back end `name`; `auto` and `usp`: the fastest one of the device. `usp` also selects how
    ranks that share a pack exchange keys (see `sequence_parallel`).

    CUDA's flash kernel computes whole documents, but a rank with a shard of a pack has few of their
    rows, and a sliding window sees only a part (`partial`). On a CPU products of chunks are faster
    than its flash kernel, whose backward pass is slow (docs/performance.md). Raises UserError if a
    back end chosen by name cannot be used on a GPU.
    """
    if device.type != "cuda":
        return BACKENDS["chunked" if name in ("auto", "usp") else name]
    if name in ("auto", "usp"):
        fast = ["flex"] if partial else ["flash", "flex"]
        usable = [
            candidate
            for candidate in fast
            if not unsupported_on_gpu(candidate, device, dtype, head_dim)
        ]
        return BACKENDS[usable[0] if usable else "chunked"]
    if why := unsupported_on_gpu(name, device, dtype, head_dim):
        raise UserError(f"train.attention_backend is {name}, {why}; use auto")
    return BACKENDS[name]


@cache
def unsupported_on_gpu(
    name: str, device: torch.device, dtype: torch.dtype, head_dim: int
) -> str | None:
    """Why a back end cannot be used on this GPU, None if it can."""
    if why := unsupported_reason(name, "cuda", str(dtype).removeprefix("torch."), head_dim):
        return why
    if name == "flash" and torch.cuda.get_device_capability(device) < (8, 0):
        return "whose kernel needs a GPU of the Ampere generation or a newer one"
    if name == "flex" and head_dim > FLEX_NARROW:
        properties: Any = torch.cuda.get_device_properties(device)  # typed without this one
        shared_memory = properties.shared_memory_per_block_optin
        if shared_memory < FLEX_WIDE_BYTES:
            return (
                f"whose backward pass of heads of {head_dim} numbers needs "
                f"{FLEX_WIDE_BYTES // 1024} KB of shared memory, and this GPU has "
                f"{shared_memory // 1024}"
            )
    if name == "flex" and not compiles_for_cuda():
        return "which has to be compiled, and nothing can be compiled here"
    return None
