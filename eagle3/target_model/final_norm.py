"""The target's final norm as a module of its own class: what turns a state before it into the one
that the head reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from eagle3.errors import Foreign, UserError
from eagle3.target_model.config import load_whole_config
from eagle3.target_model.weights import TargetWeights


def load_final_norm(
    directory: Path, final_norm_key: str, dtype: torch.dtype, trust_remote_code: bool = False
) -> torch.nn.Module:
    """The norm behind the last layer, on the CPU in `dtype`; maps [..., H] to [..., H].

    The model is built without memory, and only this module is filled. Raises UserError if it
    cannot be built, or its weights are not where `final_norm_key` says.
    """
    from transformers import AutoModel

    weights = TargetWeights(directory)
    name = weights.check(final_norm_key, "final_norm_key")
    config = load_whole_config(directory, trust_remote_code)
    with Foreign(f"target.model: cannot build the final norm of {directory}"), torch.device("meta"):
        body = AutoModel.from_config(config, trust_remote_code=trust_remote_code).get_decoder()
    norm = _named(body, name.removesuffix(".weight").rpartition(".")[2])
    if norm is None:
        raise UserError(
            f"target.final_norm_key is {final_norm_key!r}, which is no module of a "
            f"{type(body).__name__}"
        )
    norm = norm.to_empty(device="cpu")
    with torch.no_grad():
        for part, parameter in norm.named_parameters():
            stored = f"{name.removesuffix('weight')}{part}"
            parameter.copy_(weights.read(stored, "final_norm_key"))
    return norm.to(dtype).eval().requires_grad_(False)


def _named(body: Any, name: str) -> torch.nn.Module | None:
    """The direct child of a decoder by its name."""
    child = dict(body.named_children()).get(name)
    return child if isinstance(child, torch.nn.Module) else None
