"""The target's own final norm, for an engine that returns the last state before it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from eagle3.errors import Foreign, UserError
from eagle3.target_model.config import load_text_config
from eagle3.target_model.weights import TargetWeights


def load_final_norm(
    directory: Path, key: str, dtype: torch.dtype, trust_remote_code: bool = False
) -> torch.nn.Module:
    """The norm of the tensor `key` in `dtype`, on the CPU: a module [..., H] -> [..., H] of
    transformers' class for the target.

    Raises UserError if that class has no such norm, or the files lack a weight of it.
    """
    config, weights = load_text_config(directory, trust_remote_code), TargetWeights(directory)
    prefix = weights.check(key, "final_norm_key").rpartition(".")[0]
    name = prefix.rpartition(".")[2]  # text parts of larger models have longer prefixes
    norm = getattr(_meta_decoder(config, directory, trust_remote_code), name, None)
    if not isinstance(norm, torch.nn.Module):
        raise UserError(
            f"target.final_norm_key is {key!r}, but a {config.model_type} has no norm {name!r} "
            "behind its layers"
        )
    tensors = {
        part: weights.read(f"{prefix}.{part}", "final_norm_key")
        for part, _ in norm.named_parameters()
    }
    norm.load_state_dict(tensors, assign=True)
    return norm.to(dtype).requires_grad_(False).eval()


def _meta_decoder(config: Any, directory: Path, trust_remote_code: bool) -> Any:
    """The decoder of a target on the meta device: its weights take no memory."""
    from transformers import AutoModel

    with Foreign(f"target.model: cannot build {directory}"), torch.device("meta"):
        return AutoModel.from_config(config, trust_remote_code=trust_remote_code)
