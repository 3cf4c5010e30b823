"""Targets with quantised weights, as far as their files tell before they are loaded.

transformers loads them as `quantization_config` says; most methods need a package. This project
reads the head and the embedding as they are stored, so they have to be plain.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from eagle3.errors import UserError
from eagle3.target_model.files import read_object

# without a suitable GPU, transformers unpacks these weights to bfloat16
BUILT_IN = ("fp8", "mxfp4")
# packages that transformers 5 needs, by the method's name in config.json
PACKAGES = {
    "awq": ("gptqmodel",),
    "bitsandbytes": ("bitsandbytes",),
    "compressed-tensors": ("compressed_tensors",),
    "gptq": ("gptqmodel", "optimum"),
    "hqq": ("hqq",),
    "quark": ("quark",),
    "torchao": ("torchao",),
    "auto-round": ("auto_round",),
}


def method_of(folder: Path) -> str | None:
    """How the weights of a target are quantised, None if they are not."""
    config = read_object(folder / "config.json")
    text = config.get("text_config")
    inner = text.get("quantization_config") if isinstance(text, dict) else None
    quantization = config.get("quantization_config") or inner
    if not isinstance(quantization, dict):
        return None
    return str(quantization.get("quant_method", "unknown"))


def check_packages(folder: Path) -> None:
    """Raise UserError if transformers lacks a package to load a target's weights with."""
    method = method_of(folder)
    if method is not None and method not in (*PACKAGES, *BUILT_IN):
        raise UserError(
            f"target.model: the weights of {folder} are quantised ({method}), which transformers "
            "would pass over; name a model with plain weights"
        )
    missing = [name for name in PACKAGES.get(method or "", ()) if find_spec(name) is None]
    if missing:
        names = " ".join(name.replace("_", "-") for name in missing)
        raise UserError(
            f"target.model: the weights of {folder} are quantised ({method}), and transformers "
            f"loads them with {names}, which is not installed: `pip install {names}`, or name a "
            "model with plain weights"
        )
