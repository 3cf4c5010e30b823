"""The Hugging Face engine: any causal language model, run for its states and not for its logits.

Forward hooks take the outputs of three decoder layers; the last hidden state is the body's own
output, after the final norm. The head runs only on the rows that a caller asks for.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from eagle3.device import check_device
from eagle3.errors import UserError
from eagle3.target.files import first_line

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class HFTarget:
    """A target model that returns aux states [.., 3H] and last states [.., H]."""

    def __init__(self, model: Any, layers: Sequence[int]) -> None:
        """`layers`: 0-based decoder layers whose outputs are captured."""
        self.model = model.eval()
        self.body = model.get_decoder()
        self.device = next(model.parameters()).device
        self._captured: dict[int, torch.Tensor] = {}
        self._layers = tuple(layers)
        for layer in self._layers:
            self.body.layers[layer].register_forward_hook(self._hook(layer))

    @classmethod
    def load(
        cls,
        directory: Path,
        layers: Sequence[int],
        dtype: str = "auto",
        device: str = "cpu",
        trust_remote_code: bool = False,
    ) -> HFTarget:
        """Load a model directory. Raises UserError if it is no causal language model."""
        from transformers import AutoModelForCausalLM

        where = check_device(device)
        try:
            model: Any = AutoModelForCausalLM.from_pretrained(
                directory,
                dtype=DTYPES.get(dtype, "auto"),
                trust_remote_code=trust_remote_code,
                use_safetensors=True,
            )
        except (OSError, ValueError) as fault:
            raise UserError(f"target.model: cannot load {directory}: {first_line(fault)}") from None
        return cls(model.to(where), layers)

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    def _hook(self, layer: int) -> Any:
        def keep(_module: Any, _inputs: Any, output: Any) -> None:
            self._captured[layer] = output[0] if isinstance(output, tuple) else output

        return keep

    @torch.inference_mode()
    def states(
        self, input_ids: torch.Tensor, cache: Any = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """aux [B, L, 3H] and last [B, L, H] (after the final norm) of `input_ids` [B, L].

        Rows of unequal length are padded on the right: under causal attention no real position
        sees the padding, so no attention mask is needed. With `cache` (a transformers cache) the
        ids continue what the cache holds and are added to it.
        """
        output = self.body(
            input_ids=input_ids.to(self.device), past_key_values=cache, use_cache=cache is not None
        )
        aux = torch.cat([self._captured[layer] for layer in self._layers], dim=-1)
        self._captured.clear()
        return aux, output.last_hidden_state
