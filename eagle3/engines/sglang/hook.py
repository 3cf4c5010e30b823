"""The part that runs inside SGLang: a forward hook that hands over every prefill batch.

SGLang calls `make_hook` in each of its scheduler processes, one per tensor-parallel rank, once the
model is loaded. Every rank has the same states, so only the first one registers a hook.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from eagle3.engines.separate.intake import OTHER_ENGINE, Intake
from eagle3.engines.separate.request import fault_noted
from eagle3.engines.sglang.engine import REQUEST_ID, SGLANG
from eagle3.errors import UserError


def make_hook(config: Mapping[str, str]) -> CaptureHook | None:
    """The hook of this scheduler process; None except on rank 0."""
    if torch.distributed.get_rank() != 0:
        return None
    folder = Path(config["folder"])
    with fault_noted(folder, SGLANG.title):
        return CaptureHook(Intake.open(folder, SGLANG))


class CaptureHook:
    """Forward hook of the logits processor, which sees the input and the states of a batch."""

    def __init__(self, intake: Intake) -> None:
        self.intake = intake

    def __call__(self, _module: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Raises UserError (also written to the folder) if a batch is not the expected one."""
        with fault_noted(self.intake.folder, SGLANG.title):
            batch = next((value for value in inputs if hasattr(value, "forward_mode")), None)
            if batch is None:
                raise UserError(
                    "this model's code in SGLang passes no batch to its logits processor; "
                    f"{OTHER_ENGINE}"
                )
            if batch.forward_mode.is_extend() and batch.rids:
                self._take(batch, inputs[0], output)

    def _take(self, batch: Any, input_ids: torch.Tensor, output: Any) -> None:
        """Check a prefill batch and hand over the rows of our documents."""
        ids = input_ids.tolist()
        documents, rows, stop = [], [], 0
        lengths, prefixes = batch.extend_seq_lens_cpu, batch.extend_prefix_lens_cpu
        for name, length, prefix in zip(batch.rids, lengths, prefixes, strict=True):
            start, stop = stop, stop + int(length)
            if not name.startswith(REQUEST_ID):
                continue  # a warm-up of the engine's own
            number = int(name.removeprefix(REQUEST_ID))
            self.intake.check(number, int(prefix), ids[start:stop])
            documents.append(number)
            rows.append(slice(start, stop))
        if not documents:
            return
        aux, last = output.hidden_states, output.last_hidden_states
        if aux is None or last is None:
            raise UserError(f"SGLang returned no hidden states for this model; {OTHER_ENGINE}")
        layers = self.intake.layers
        if aux.shape != (stop, layers * last.shape[-1]) or len(last) != stop:
            raise UserError(
                f"SGLang returned states {list(aux.shape)} and {list(last.shape)} for a batch of "
                f"{stop} tokens and {layers} layers; {OTHER_ENGINE}"
            )
        if len(documents) < len(batch.rids):
            aux, last = (torch.cat([states[span] for span in rows]) for states in (aux, last))
        self.intake.take(documents, aux, last)
