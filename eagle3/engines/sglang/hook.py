"""What runs inside SGLang: a forward hook that hands every prefill batch to a consumer.

SGLang calls `make_hook` in each of its scheduler processes, one per tensor-parallel rank, once the
model is loaded. Every rank holds the same states, so only the first one registers a hook.
"""

from __future__ import annotations

import importlib
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from eagle3.engines.sglang.request import (
    REQUEST_ID,
    SGLangRequest,
    fault_noted,
    note_seen,
    read_documents,
)
from eagle3.errors import UserError

log = logging.getLogger(__name__)


class Consumer(Protocol):
    """What takes the states; it finishes its work with the last document."""

    def add(self, documents: list[int], aux: torch.Tensor, last: torch.Tensor) -> None:
        """Take some documents' aux [sum L, C H] and last [sum L, H], one after another.

        The tensors lie on the engine's device and are not kept alive by it.
        """
        ...


def make_hook(config: Mapping[str, str]) -> CaptureHook | None:
    """The hook of this scheduler process, or None where another rank has it."""
    if torch.distributed.get_rank() != 0:
        return None
    folder = Path(config["folder"])
    with fault_noted(folder):
        request = SGLangRequest.read(folder)
        consumer = named(request.consumer)(**request.consumer_arguments)
        return CaptureHook(folder, read_documents(folder), consumer, len(request.layers))


def named(name: str) -> Any:
    """The object that "module:name" names."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


class CaptureHook:
    """Forward hook of the logits processor, which sees the input and the states of a batch."""

    def __init__(
        self, folder: Path, documents: dict[int, np.ndarray], consumer: Consumer, layers: int
    ) -> None:
        self.folder = folder
        self.documents = documents
        self.consumer = consumer
        self.layers = layers
        self.seen: set[int] = set()
        self.tokens, self.started = 0, time.monotonic()

    def __call__(self, _module: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Raises UserError (also written to the folder) if a batch is not the expected one."""
        with fault_noted(self.folder):
            batch = next((value for value in inputs if hasattr(value, "forward_mode")), None)
            if batch is None:
                raise UserError(
                    "this model's code in SGLang passes no batch to its logits processor; use "
                    "hidden_states.backend hf"
                )
            if batch.forward_mode.is_extend() and batch.rids:
                self._take(batch, inputs[0], output)

    def _take(self, batch: Any, input_ids: torch.Tensor, output: Any) -> None:
        """Check a prefill batch and pass the rows of our documents on."""
        ids = input_ids.cpu().numpy()
        documents, rows, stop = [], [], 0
        lengths, prefixes = batch.extend_seq_lens_cpu, batch.extend_prefix_lens_cpu
        for name, length, prefix in zip(batch.rids, lengths, prefixes, strict=True):
            start, stop = stop, stop + int(length)
            if not name.startswith(REQUEST_ID):
                continue  # a warm-up of the engine's own
            number = int(name.removeprefix(REQUEST_ID))
            self._check(number, int(prefix), ids[start:stop])
            documents.append(number)
            rows.append(slice(start, stop))
        if not documents:
            return
        aux, last = output.hidden_states, output.last_hidden_states
        if aux is None or last is None:
            raise UserError(
                "SGLang returned no hidden states for this model; use hidden_states.backend hf"
            )
        if aux.shape != (stop, self.layers * last.shape[-1]) or len(last) != stop:
            raise UserError(
                f"SGLang returned states {list(aux.shape)} and {list(last.shape)} for a batch of "
                f"{stop} tokens and {self.layers} layers; use hidden_states.backend hf"
            )
        if len(documents) < len(batch.rids):
            aux, last = (torch.cat([states[own] for own in rows]) for states in (aux, last))
        self.consumer.add(documents, aux, last)
        note_seen(self.folder, documents)
        self.tokens += len(aux)
        log.info(
            "captured %d of %d documents, %.0f tokens/s",
            len(self.seen),
            len(self.documents),
            self.tokens / (time.monotonic() - self.started),
        )

    def _check(self, number: int, prefix: int, ids: np.ndarray) -> None:
        """Raise UserError unless `ids` are document `number`, whole and for the first time."""
        fault = None
        if number not in self.documents:
            fault = "was never sent"
        elif prefix != 0:
            fault = f"starts at its token {prefix}, the rest is cached or in another batch"
        elif len(ids) != len(self.documents[number]):
            fault = (
                f"has {len(ids)} rows for its {len(self.documents[number])} tokens, as when it "
                "does not fit SGLang's cache (mem_fraction_static, max_total_tokens)"
            )
        elif not np.array_equal(ids, self.documents[number]):
            fault = "has other tokens than were sent"
        elif number in self.seen:
            fault = "came twice"
        if fault:
            raise UserError(
                f"SGLang's batch does not fit the request: document {number} {fault}; check "
                "resources.capture.sglang_arguments, or use hidden_states.backend hf"
            )
        self.seen.add(number)
