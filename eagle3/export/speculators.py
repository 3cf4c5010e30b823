"""The draft in the format of the speculators library, which names its target: `vllm serve <draft>`
needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eagle3.errors import UserError
from eagle3.export.exported import Description, DraftFormat, Verifier
from eagle3.export.layer_config import AUX_IDS, draft_config, layer_config

VERSION = "0.6.0"  # of the format as it is written here


def write(description: Description) -> dict[str, Any]:
    """config.json. Layer ids count inputs, as in vLLM.

    `norm_before_residual` is written because vLLM's default is true.
    Raises UserError without a verifier.
    """
    config, verifier = description.config, description.verifier
    if verifier is None:
        raise UserError("the speculators format needs the name of the target, and none was given")
    greedy = {
        "proposal_type": "greedy",
        "speculative_tokens": verifier.num_speculative_tokens,
        "verifier_accept_k": 1,
        "accept_tolerance": 0.0,
    }
    return {
        "architectures": ["Eagle3Speculator"],
        "speculators_model_type": "eagle3",
        "speculators_version": VERSION,
        "speculators_config": {
            "algorithm": "eagle3",
            "default_proposal_method": "greedy",
            "proposal_methods": [greedy],
            "verifier": {
                "name_or_path": verifier.name,
                "architectures": list(verifier.architectures),
            },
        },
        "transformer_layer_config": layer_config(config, description.dtype),
        "draft_vocab_size": config.draft_vocab_size,
        "target_hidden_size": None,  # only where it differs from the draft's
        AUX_IDS: [layer + 1 for layer in config.aux_layers],
        "norm_before_residual": config.norm_before_residual,
        "norm_before_fc": False,
        "fc_norm": config.fc_norm,
        "norm_output": config.norm_output,
        "embed_requires_grad": False,
        "tie_word_embeddings": False,
        "torch_dtype": description.dtype,
    }


def read(saved: Mapping[str, Any]) -> Description:
    """Raises KeyError with the name of a missing key."""
    layer, verifier_config = (
        saved["transformer_layer_config"],
        saved["speculators_config"]["verifier"],
    )
    config = draft_config(layer, saved, [number - 1 for number in saved[AUX_IDS]])
    (method,) = saved["speculators_config"]["proposal_methods"]
    count = method["speculative_tokens"]
    verifier = Verifier(
        verifier_config["name_or_path"], tuple(verifier_config["architectures"]), count
    )
    return Description(config, saved["torch_dtype"], verifier)


# neither vLLM nor the library (0.9) has a place for the mapping of a whole vocabulary
SPECULATORS = DraftFormat("speculators", write, read, layer="layers.0.", whole_mapping=False)
