"""The draft as vLLM loads it from `--speculative-config` (method eagle3): EAGLE's own spelling.

Class `Eagle3LlamaForCausalLM`, registered as LlamaForCausalLMEagle3; with q/k norms it is
`Eagle3Qwen3ForCausalLM`. Both rename `midlayer.` themselves. Which version reads which switch:
docs/serving.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eagle3.export.exported import Description, DraftFormat
from eagle3.export.layer_config import AUX_IDS, draft_config, layer_config


def write(description: Description) -> dict[str, Any]:
    """config.json. vLLM counts layer *inputs*: the output of layer j is the input of j + 1."""
    config = description.config
    return {
        "architectures": ["Eagle3Qwen3ForCausalLM" if config.qk_norm else "LlamaForCausalLMEagle3"],
        **layer_config(config, description.dtype),
        "draft_vocab_size": config.draft_vocab_size,
        AUX_IDS: [layer + 1 for layer in config.aux_layers],
        "norm_before_residual": config.norm_before_residual,
        "norm_before_fc": False,
        "fc_norm": config.fc_norm,
        "norm_output": config.norm_output,
    }


def read(saved: Mapping[str, Any]) -> Description:
    """Raises KeyError with the name of a missing key."""
    config = draft_config(saved, saved, [layer - 1 for layer in saved[AUX_IDS]])
    return Description(config, saved["torch_dtype"])


# its classes do not load d2t of a draft with the target's whole vocabulary (0.32)
VLLM = DraftFormat("vllm", write, read, whole_mapping=False)
