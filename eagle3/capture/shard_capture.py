"""Capture: run the target over a token shard and keep the states that training reads.

Documents are sorted by length and run in batches of a token budget, so hardly any padding is
computed and none is stored. The budget is about speed; it decides neither what is stored nor where.
An engine returns the states of some documents; `ShardCapture` takes them in any order, in whatever
process the engine runs.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from eagle3.capture.teacher_rows import TeacherRows
from eagle3.errors import UserError
from eagle3.files.artifact import Manifest, Settings
from eagle3.parallel.device import to_device
from eagle3.progress import Progress
from eagle3.store.codecs import CODECS
from eagle3.store.layout import LAST_CHUNKS, Layout
from eagle3.store.reader import KIND
from eagle3.store.writer import ShardWriter
from eagle3.tokens.shards import TokenShard

log = logging.getLogger(__name__)


class CaptureEngine(Protocol):
    """An engine that runs the target in this process: `engines.hf.HFTarget`."""

    def flat_states(self, documents: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """aux [sum L, C H] of C layers and post-norm last [sum L, H] of documents int64 [L]; no
        padding."""
        ...


class ShardCapture:
    """Takes the states of documents, each once and in any order, and writes their shard.

    On ranks that do not write (`path` None) it only takes part in the arithmetic.
    """

    def __init__(
        self,
        path: Path | None,
        tokens: TokenShard,
        teacher: TeacherRows,
        layers: Sequence[int],
        settings: Settings,
        threads: int = 1,
    ) -> None:
        """`settings`: those of the hidden_states stage; `threads`: of compression.

        Raises UserError if the codec does not fit the target.
        """
        self.tokens, self.teacher = tokens, teacher
        codec, hidden = settings.values["hidden_states"]["codec"], teacher.head.weight.shape[1]
        self.layout = Layout(tokens.needed, codec, hidden, len(layers))
        counts = {
            "documents": len(tokens),
            "aux": self.layout.aux_rows,
            "last": self.layout.last_rows,
            "codec": codec,
            "hidden_size": hidden,
            "aux_layers": list(layers),  # 0-based decoder layers, of their outputs
        }
        inputs = {"tokens": tokens.manifest.content_sha256}
        manifest = Manifest.of(KIND, settings, inputs, counts)
        self._writer = ShardWriter(path, self.layout, manifest, threads) if path else None
        self._agreed: torch.Tensor | int = 0
        self._done = 0
        self._started = time.monotonic()
        total = int(self.layout.needed.kept.sum())
        self._progress = Progress(total, "tokens", log) if path else None

    @property
    def complete(self) -> bool:
        """Whether every token has been taken."""
        return self._done == int(self.layout.needed.kept.sum())

    def add(self, documents: Sequence[int], aux: torch.Tensor, last: torch.Tensor) -> None:
        """Take aux [n, C H] and last [n, H] of whole documents, one after another.

        The states are in the target's own type, on any device. Raises UserError if rows are too
        few or too many, not finite, or of a document that was taken before.
        """
        needed = self.layout.needed
        lengths = needed.kept[list(documents)]
        if not len(aux) == len(last) == lengths.sum():
            raise UserError(
                f"documents {list(documents)} have {lengths.sum()} tokens, the target returned "
                f"{len(aux)} rows of aux and {len(last)} of last"
            )
        starts = np.cumsum(lengths) - lengths
        of_aux = [s + np.arange(max(k - 2, 0)) for s, k in zip(starts, lengths, strict=True)]
        of_last = [start + needed.taught(d) for start, d in zip(starts, documents, strict=True)]
        aux = _select_rows(aux, of_aux).unflatten(1, (self.layout.layers, -1))  # [T, C, H]
        last = _select_rows(last, of_last)  # [R, H]
        # the only wait for a GPU in a batch
        if not bool(all_finite(aux) & all_finite(last)):
            self._check_finite(documents, of_aux, aux)
            self._check_finite(documents, of_last, last)
        codec = CODECS[self.layout.codec]
        parts = {f"aux{suffix}": rows for suffix, rows in codec.encode(aux).items()}
        stored = codec.encode(last[:, None])
        parts |= {f"last{suffix}": rows for suffix, rows in stored.items()}
        exact = codec.exact_for(last.dtype)
        argmax, lse = self.teacher(last, last if exact else codec.decode(stored, LAST_CHUNKS))
        parts |= {"teacher_argmax": argmax, "teacher_lse": lse}
        next_ids = [
            self.tokens.input_ids[self.tokens.doc_offsets[d] + 1 :][rows - start]
            for d, start, rows in zip(documents, starts, of_last, strict=True)
        ]
        next_tokens = to_device(torch.from_numpy(np.concatenate(next_ids)), argmax.device)
        self._agreed = self._agreed + (argmax == next_tokens).sum()
        if self._writer is not None:
            self._writer.put(documents, parts)
        self._done += int(lengths.sum())
        if self._progress is not None:
            self._progress.advance(int(lengths.sum()), self._progress_line)

    def finish(self) -> Manifest | None:
        """Complete the file. Raises UserError if a document is missing, OSError if the disk is
        full; returns None on ranks that do not write."""
        if self._writer is None:
            return None
        # rows whose next token is the target's choice: nearly all, if the target wrote greedily
        return self._writer.finish({"argmax_agrees": int(self._agreed)})

    def close(self) -> None:
        """Stop the writer; a file that is not finished is not a shard."""
        if self._progress is not None:
            self._progress.close()
        if self._writer is not None:
            self._writer.close()

    def _check_finite(
        self, documents: Sequence[int], rows: list[np.ndarray], states: torch.Tensor
    ) -> None:
        """Raise UserError that names the documents if some rows are not finite."""
        bad = (~torch.isfinite(states)).flatten(1).any(1).nonzero().flatten().tolist()
        if not bad:
            return
        owner = np.repeat(list(documents), [len(r) for r in rows])
        names = sorted({self.tokens.row_ids[owner[row]] for row in bad})
        raise UserError(
            f"{len(bad)} rows of states are not finite (documents {', '.join(names[:5])}): the "
            "target overflows in its dtype, try target.dtype bfloat16 or float32"
        )

    def _progress_line(self) -> str:
        total = int(self.layout.needed.kept.sum())
        rate = self._done / max(time.monotonic() - self._started, 1e-9)
        seconds_left = (total - self._done) / rate
        return f"{self._done} of {total} tokens, {rate:.0f} tokens/s, done in {seconds_left:.0f} s"


def capture(engine: CaptureEngine, shard: ShardCapture, batch_tokens: int) -> None:
    """Run an engine of this process over every document of a shard, `finish` left to the caller."""
    documents = documents_to_run(shard.tokens)
    for batch in token_batches(shard.layout.needed.kept, batch_tokens):
        ids = [torch.from_numpy(documents[document]) for document in batch.tolist()]
        shard.add(batch.tolist(), *engine.flat_states(ids))


def documents_to_run(tokens: TokenShard) -> dict[int, np.ndarray]:
    """Token ids of every document that has to be run, by number."""
    return {d: tokens.kept_ids(d) for d in np.flatnonzero(tokens.needed.kept).tolist()}


def token_batches(lengths: np.ndarray, budget: int) -> list[np.ndarray]:
    """Documents in batches of at most `budget` padded tokens, of similar length each.

    Documents of length 0 are left out; one that exceeds the budget is a batch by itself.
    """
    order = np.argsort(-lengths, kind="stable")
    order = order[lengths[order] > 0]
    batches, start = [], 0
    while start < len(order):
        size = max(1, budget // int(lengths[order[start]]))
        batches.append(order[start : start + size])
        start += size
    return batches


def all_finite(states: torch.Tensor) -> torch.Tensor:
    """bool []: whether all are finite, computed without a tensor of their size."""
    if not states.numel():
        return torch.ones((), dtype=torch.bool, device=states.device)
    low, high = states.aminmax()  # both are NaN where any state is
    return torch.isfinite(low) & torch.isfinite(high)


def _select_rows(states: torch.Tensor, wanted: list[np.ndarray]) -> torch.Tensor:
    """Rows of the states; `wanted`: indices of those of each document."""
    index = torch.from_numpy(np.concatenate([np.empty(0, np.int64), *wanted]))
    return states[to_device(index, states.device)]
