"""The way back from an engine: documents are checked and handed to a consumer.

Imports only the standard library at first, as `request` does.
"""

from __future__ import annotations

import importlib
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from eagle3.engines.separate.request import (
    EngineRequest,
    SeparateEngine,
    note_seen,
    read_documents,
)
from eagle3.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import torch

log = logging.getLogger(__name__)
OTHER_ENGINE = "use hidden_states.backend hf"


class Consumer(Protocol):
    """Takes the states; finishes its work with the last document."""

    def add(self, documents: list[int], aux: torch.Tensor, last: torch.Tensor) -> None:
        """Take some documents' aux [sum L, kH] of k layers and last [sum L, H], one after another.

        The tensors are on the engine's device, and the engine does not keep them alive.
        """
        ...


def import_object(name: str) -> Any:
    """The object that "module:name" names."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


class Intake:
    """Checks that every document comes once and complete, and hands its states to a consumer."""

    def __init__(
        self,
        folder: Path,
        engine: SeparateEngine,
        documents: dict[int, np.ndarray],
        consumer: Consumer,
        layers: int,
    ) -> None:
        """`layers`: how many are captured."""
        self.folder, self.engine = folder, engine
        self.documents, self.consumer = documents, consumer
        self.layers = layers
        self.seen: set[int] = set()
        self.tokens, self.started = 0, time.monotonic()

    @classmethod
    def open(cls, folder: Path, engine: SeparateEngine) -> Intake:
        """The intake of the request in `folder`, with its consumer."""
        request = EngineRequest.read(folder)
        consumer = import_object(request.consumer)(**request.consumer_arguments)
        return cls(folder, engine, read_documents(folder), consumer, len(request.layers))

    def check(self, number: int, prefix: int, ids: Sequence[int] | np.ndarray) -> None:
        """Raise UserError unless `ids`, which run after `prefix` others, are all of document
        `number`, for the first time."""
        fault = None
        if number not in self.documents:
            fault = "was never sent"
        elif prefix != 0:
            fault = f"starts at its token {prefix}, the rest is cached or in another batch"
        elif len(ids) != len(self.documents[number]):
            fault = (
                f"has {len(ids)} rows for its {len(self.documents[number])} tokens, as when it "
                f"does not fit {self.engine.title}'s cache ({self.engine.cache_arguments})"
            )
        elif list(ids) != self.documents[number].tolist():
            fault = "has other tokens than were sent"
        elif number in self.seen:
            fault = "came twice"
        if fault:
            raise UserError(
                f"{self.engine.title}'s batch does not fit the request: document {number} {fault}; "
                f"check {self.engine.arguments_key}, or {OTHER_ENGINE}"
            )
        self.seen.add(number)

    def take(self, documents: list[int], aux: torch.Tensor, last: torch.Tensor) -> None:
        """Hand over checked documents: aux [sum L, kH] and last [sum L, H]."""
        self.consumer.add(documents, aux, last)
        note_seen(self.folder, documents)
        self.tokens += len(aux)
        log.info(
            "captured %d of %d documents, %.0f tokens/s",
            len(self.seen),
            len(self.documents),
            self.tokens / (time.monotonic() - self.started),
        )
