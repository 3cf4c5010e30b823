"""Noise on the features that the draft is trained on (`train.feature_noise`).

Every value of a row gets a uniform draw from [-size, size], times the root mean square of its
layer's state in that row: layers differ in scale by orders of magnitude. A draw is a hash of
(seed, step, document, position, column). So packing, number of ranks and resuming do not affect it,
and it differs in each epoch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
import torch

from eagle3.kernels.fused_ops import at_least_fp32
from eagle3.objective.pack import Pack
from eagle3.parallel.device import to_device

# lowbias32 (github.com/skeeto/hash-prospector), and 2^32 over the golden ratio: as signed numbers
FIRST, SECOND, COLUMN = 0x7FEB352D, 0x846CA68B - 2**32, 0x9E3779B9 - 2**32


def with_noise(
    packs: Iterable[Pack], planned: Iterable[tuple[int, np.ndarray]], size: float, seed: int
) -> Iterator[Pack]:
    """`packs` with noise. `planned`: the step and the stage's document numbers of each pack."""
    for pack, (step, numbers) in zip(packs, planned, strict=True):
        columns = pack.columns  # on the host, where shards are too
        tokens = columns.row_tokens
        rows = tokens if pack.shards is None else tokens[pack.shards.local.rows]
        documents = torch.from_numpy(numbers)[columns.documents[rows]]
        keys = to_device(row_keys(seed, step, documents, columns.positions[rows]), pack.aux.device)
        yield replace(pack, aux=noisy(pack.aux, keys, size, pack.last.shape[1]))


def noisy(aux: torch.Tensor, keys: torch.Tensor, size: float, hidden: int) -> torch.Tensor:
    """aux [T, C H], H being `hidden`, with noise by `keys` int32 [T], in its own type."""
    exact = at_least_fp32(aux).unflatten(-1, (-1, hidden))  # [T, C, H]
    scale = size * exact.square().mean(-1, keepdim=True).sqrt()
    draws = uniform(keys, aux.shape[1]).to(exact.dtype).view_as(exact)
    return (exact + scale * draws).flatten(1).to(aux.dtype)


def row_keys(
    seed: int, step: int, documents: torch.Tensor, positions: torch.Tensor
) -> torch.Tensor:
    """int32 [T], one key for each row, from documents and positions int64 [T]."""
    key = torch.zeros_like(positions, dtype=torch.int32)
    for part in (seed, step, documents, positions):
        # the lower 32 bits of each number
        key = _mix(key ^ torch.as_tensor(part, device=key.device).to(torch.int32))
    return key


def uniform(keys: torch.Tensor, columns: int) -> torch.Tensor:
    """float32 [T, columns] in [-1, 1]."""
    steps = torch.arange(columns, dtype=torch.int32, device=keys.device) * COLUMN
    return _mix(keys[:, None] + steps).float() * 2.0**-31


def _mix(x: torch.Tensor) -> torch.Tensor:
    """A hash that permutes the 32-bit numbers."""
    x = x ^ _logical_shift(x, 16)
    x = x * FIRST
    x = x ^ _logical_shift(x, 15)
    x = x * SECOND
    return x ^ _logical_shift(x, 16)


def _logical_shift(x: torch.Tensor, bits: int) -> torch.Tensor:
    """x >> bits without sign extension."""
    return (x >> bits) & ((1 << (32 - bits)) - 1)
