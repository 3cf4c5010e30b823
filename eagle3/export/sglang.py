"""The draft as SGLang loads it (`LlamaForCausalLMEagle3`, read in SGLang 0.5.23)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eagle3.export.exported import Description, DraftFormat
from eagle3.export.layer_config import AUX_IDS, draft_config, layer_config


def write(description: Description) -> dict[str, Any]:
    """config.json. SGLang counts layer *outputs* from 0, and reads the ids only where they are
    nested like this."""
    config = description.config
    return {
        "architectures": ["LlamaForCausalLMEagle3"],
        **layer_config(config, description.dtype),
        "draft_vocab_size": config.draft_vocab_size,
        "norm_before_residual": False,
        "fc_norm": config.fc_norm,
        "norm_output": config.norm_output,
        "eagle_config": {AUX_IDS: list(config.aux_layers), "use_aux_hidden_state": True},
    }


def read(saved: Mapping[str, Any]) -> Description:
    """Raises KeyError with the name of a missing key."""
    nested = saved["eagle_config"] or {}
    if AUX_IDS not in nested:
        raise KeyError(f"eagle_config.{AUX_IDS}")
    config = draft_config(saved, saved, nested[AUX_IDS])
    return Description(config, saved["torch_dtype"])


# SGLang always uses the target's embedding, whatever the file contains
SGLANG = DraftFormat("sglang", write, read, further_norm="hidden_norm", embedding=False)
