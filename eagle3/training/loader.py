"""Packs on the device, read ahead of the computation.

Reader threads fill one buffer for each part of a pack with the stored bytes of its documents. The
buffer is copied to the device and decoded there, so a quantised state crosses the bus at its stored
size. On CUDA buffers are pinned, and copy and decoding run on a separate stream.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import numpy as np
import torch

from eagle3.objective.pack import Pack
from eagle3.objective.sequence_parallel.sharding import SequenceSharding
from eagle3.training.data import TrainingData

Read = TypeVar("Read")
READERS = 2  # threads that read packs
ANNOUNCED = 8  # packs fetched ahead; states in object storage are kept in stored form


def read_ahead(
    data: TrainingData,
    packs: Iterable[np.ndarray],
    device: torch.device,
    sharding: SequenceSharding | None = None,
) -> Iterator[Pack]:
    """Packs, or this rank's shards of them, in order on `device`; the next ones are read while the
    caller works on the last."""
    pack_list = list(packs)
    if device.type != "cuda":
        yield from _in_order(partial(data.pack, sharding=sharding), data, pack_list)
        return
    copy_stream = torch.cuda.Stream(device)
    in_flight: deque[tuple[Pack, torch.cuda.Event]] = deque()
    staged_packs = _in_order(
        partial(data.staged, sharding=sharding, pinned=True),
        data,
        pack_list,
        # the current device is thread-local: without this, pinning memory would create a context of
        # every rank on the first GPU
        partial(torch.cuda.set_device, device),
    )
    for staged in staged_packs:
        with torch.cuda.stream(copy_stream):
            pack = staged.to(device).decoded(data.layout)
            in_flight.append((pack, copy_stream.record_event()))
        if len(in_flight) > 1:  # one pack is in transit while another is in use
            yield _received(*in_flight.popleft())
    while in_flight:
        yield _received(*in_flight.popleft())


def _received(pack: Pack, arrived: torch.cuda.Event) -> Pack:
    """A pack that the current stream may read."""
    current = torch.cuda.current_stream()
    current.wait_event(arrived)
    for tensor in pack.tensors().values():
        tensor.record_stream(current)  # else its memory is reused too early
    return pack


def _in_order(
    read: Callable[[np.ndarray], Read],
    data: TrainingData,
    packs: list[np.ndarray],
    prepare: Callable[[], None] | None = None,
) -> Iterator[Read]:
    """The result of `read` for each pack, in order, by `READERS` threads; each calls `prepare`
    first."""
    for numbers in packs[:ANNOUNCED]:
        data.announce(numbers)
    with ThreadPoolExecutor(READERS, initializer=prepare) as readers:
        reading: deque[Future[Read]] = deque()
        for position, numbers in enumerate(packs):
            for upcoming in packs[position + ANNOUNCED : position + ANNOUNCED + 1]:
                data.announce(upcoming)
            reading.append(readers.submit(read, numbers))
            if len(reading) > READERS:
                yield reading.popleft().result()
        while reading:
            yield reading.popleft().result()
