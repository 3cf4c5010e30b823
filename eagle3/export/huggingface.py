"""The draft for transformers or plain torch: everything in transformers' terms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eagle3.export.exported import Description, DraftFormat
from eagle3.export.layer_config import draft_config, layer_config

INDICES = "aux_hidden_state_indices"


def write(description: Description) -> dict[str, Any]:
    """config.json. The draft reads `hidden_states[i]` of the target's output for each index,
    concatenated; AutoConfig reads the rest as a Llama (a Qwen3 with q/k norms)."""
    config = description.config
    return {
        "architectures": ["Eagle3Draft"],
        **layer_config(config, description.dtype),
        "draft_vocab_size": config.draft_vocab_size,
        INDICES: [layer + 1 for layer in config.aux_layers],
        "norm_before_residual": config.norm_before_residual,
        "fc_norm": config.fc_norm,
        "norm_output": config.norm_output,
    }


def read(saved: Mapping[str, Any]) -> Description:
    """Raises KeyError with the name of a missing key."""
    config = draft_config(saved, saved, [index - 1 for index in saved[INDICES]])
    return Description(config, saved["torch_dtype"])


HF = DraftFormat("hf", write, read)
