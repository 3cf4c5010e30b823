"""The jobs of an import: the check of the source, and the conversion of one shard."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch

from eagle3.capture.job import CaptureJob, Placement
from eagle3.capture.self_check import check_shard
from eagle3.capture.shard_capture import ShardCapture, documents_to_run
from eagle3.data.faults import BadRow
from eagle3.engines.hf import DTYPES
from eagle3.errors import UserError
from eagle3.imports.document import Expected, PeerDocument, PeerFiles
from eagle3.imports.listing import KEY, PEERS, Listing
from eagle3.imports.source_check import Norm, Sample, check_states
from eagle3.parallel.device import to_device
from eagle3.parallel.ranks import Ranks
from eagle3.target_model.final_norm import load_final_norm

log = logging.getLogger(__name__)
AHEAD = 4  # documents read while earlier ones are converted


def final_norm(job: CaptureJob, device: torch.device) -> Norm:
    """The target's own final norm, loaded on its first call."""
    loaded: list[torch.nn.Module] = []

    @torch.inference_mode()
    def norm(states: torch.Tensor) -> torch.Tensor:
        if not loaded:
            section = job.section
            key, trusted = section["final_norm_key"], section["trust_remote_code"]
            module = load_final_norm(job.target, key, DTYPES[job.dtype], trusted)
            loaded.append(module.to(device))
        result: torch.Tensor = loaded[0](states.to(device, DTYPES[job.dtype]))
        return result

    return norm


def expected_of(job: CaptureJob) -> Expected:
    """The sizes that documents of the job's target must have."""
    config = job.config
    return Expected(config.vocab_size, config.hidden_size, len(job.layers))


def check_complete(kind: str, listing: Listing, rows: int | None, max_bad_fraction: float) -> int:
    """Return how many documents have no file. `rows`: size of the dataset of kind speculators.

    Raises UserError if they are more than `max_bad_fraction` of all.
    """
    count = listing.expected if rows is None else rows
    missing = max(count - len(listing), 0)
    if missing > max_bad_fraction * count:
        raise UserError(
            f"{KEY}: {listing.folder} has files of {len(listing)} of {count} documents, so "
            f"{PEERS[kind]} has not finished, or a part was not copied; complete it, or raise "
            f"dataset.max_bad_fraction above {missing / count:.2f} to go on with what is there"
        )
    return missing


def check_sample(
    job: CaptureJob, sample: Sample, normed: bool, placement: Placement
) -> dict[str, float]:
    """Compare a sample with a plain forward pass of the target; see `check_states`."""
    spread = placement.jobs.tensor_parallel > 1
    engine = job.engine(placement.device, spread=spread)
    return check_states(sample, engine, job.layers, final_norm(job, engine.device), normed)


def import_shard(
    job: CaptureJob, files: PeerFiles, path: Path, placement: Placement, device: torch.device
) -> dict[str, float]:
    """Fill `path` with the states of the job's documents; return the self-check's cosines.

    Documents are named by their numbers. Raises UserError if a file has changed since its tokens
    were imported, or the states are not the target's, OSError if the disk is full.
    """
    tokens = job.tokens
    ids_of = documents_to_run(tokens)
    ranks = Ranks(0, 1, device)
    shard = job.shard(path, ranks, placement.threads)
    norm = None if files.normed else final_norm(job, device)
    numbers = {document: int(tokens.row_ids[document]) for document in ids_of}
    try:
        for document, stored in _read_ahead(files, numbers, placement.threads):
            _add(shard, document, ids_of[document], stored, norm, DTYPES[job.dtype], device)
        shard.finish()
    finally:
        shard.close()
    if not placement.jobs.self_check or not ids_of:
        return {}
    spread = placement.jobs.tensor_parallel > 1
    engine = job.engine(placement.device, spread=spread)
    head = None if spread else job.head
    return check_shard(path, tokens, engine, job.layers, job.settings.digest, head)


def _add(
    shard: ShardCapture,
    document: int,
    ids: np.ndarray,
    stored: PeerDocument,
    norm: Norm | None,
    dtype: torch.dtype,
    device: torch.device,
) -> None:
    """Hand the states of a document to the shard, without those after its last token."""
    length = len(ids)
    if not np.array_equal(stored.input_ids[:length], ids):
        name = shard.tokens.row_ids[document]
        raise UserError(
            f"document {name} has other tokens than when they were imported, so its file has "
            "changed: put the old one back, or delete the token shard and run snakemake again"
        )
    aux, last = to_device(stored.aux[:length], device), to_device(stored.last[:length], device)
    shard.add([document], aux, last.to(dtype) if norm is None else norm(last))


def _read_ahead(
    files: PeerFiles, numbers: Mapping[int, int], threads: int
) -> Iterator[tuple[int, PeerDocument]]:
    """Documents of a shard and the content of their files, in order; a few are read ahead."""
    waiting: deque[tuple[int, Future[PeerDocument]]] = deque()
    with ThreadPoolExecutor(max(threads, 1)) as pool:
        for document, number in numbers.items():
            waiting.append((document, pool.submit(partial(_read_document, files, number))))
            if len(waiting) > AHEAD:
                oldest, future = waiting.popleft()
                yield oldest, future.result()
        for oldest, future in waiting:
            yield oldest, future.result()


def _read_document(files: PeerFiles, number: int) -> PeerDocument:
    try:
        return files.read(number)
    except BadRow as fault:
        detail = f" ({fault.detail})" if fault.detail else ""
        raise UserError(
            f"document {number}: {fault}{detail}, which it was not when its tokens were imported"
        ) from None


def bad_rows(bad: Mapping[int, BadRow]) -> Sequence[Mapping[str, object]]:
    """Unusable documents, for a report."""
    return [
        {"row": number, "id": str(number), "cause": str(fault)} for number, fault in bad.items()
    ]
