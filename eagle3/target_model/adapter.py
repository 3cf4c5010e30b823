"""A LoRA adapter on a target, as PEFT saves it: adapter_config.json and adapter_model.safetensors.

It is merged into the target's weights when they are loaded: W + scale * B @ A, in float32, rounded
once. So capture, self-check, regeneration and evaluation run the model that is served. An adapter
that changes anything but linear layers inside the decoder is refused before any job.
Format: peft 0.21, `LoraConfig` and `peft.tuners.lora`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eagle3.errors import UserError
from eagle3.files.tensor_file import open_tensors
from eagle3.target_model.files import read_object
from eagle3.target_model.weights import TargetWeights

KEY = "target.adapter"
DESCRIBED, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
# keys of the configuration for more than low-rank products, and their values when unused
REFUSED: Mapping[str, tuple[Any, ...]] = {
    "use_dora": (None, False),
    "use_qalora": (None, False),
    "lora_bias": (None, False),
    "bias": (None, "none"),
    "modules_to_save": (None, []),
    "target_parameters": (None, []),
    "trainable_token_indices": (None, [], {}),
    "layer_replication": (None, []),
    "fan_in_fan_out": (None, False),
    "alora_invocation_tokens": (None, []),
}


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter, checked as far as its own files go. `scales`: of B @ A, by the name of the
    module in the model that it was trained on."""

    folder: Path
    scales: Mapping[str, float]


def read_adapter(folder: Path) -> Adapter:
    """The adapter in a folder. Raises UserError if there is none, or it cannot be merged."""
    config = read_object(folder / DESCRIBED, KEY)
    if config.get("peft_type") != "LORA":
        raise UserError(
            f"{KEY}: {folder / DESCRIBED} has peft_type {config.get('peft_type')!r}; must be LORA"
        )
    for name, unused in REFUSED.items():
        if config.get(name) not in unused:
            raise UserError(
                f"{KEY}: {folder / DESCRIBED} has {name} = {config[name]!r}, which is not merged "
                "here; merge the adapter with peft (merge_and_unload) and name the merged model in "
                "target.model"
            )
    if not (folder / WEIGHTS).is_file():
        raise UserError(f"{KEY}: {folder} has no {WEIGHTS}")
    ranks = _ranks(folder)
    return Adapter(folder, {name: _scale(config, name, rank) for name, rank in ranks.items()})


def check_adapter(adapter: Adapter, target: Path) -> None:
    """Raise UserError if the adapter is not for the model in the folder `target`, or changes what
    is not a matrix of a decoder layer, or if the target is quantised."""
    quantised = read_object(target / "config.json").get("quantization_config")
    if quantised:
        raise UserError(
            f"{KEY}: the weights of {target} are quantised, so nothing can be added to them; merge "
            "the adapter into the weights that these were made from"
        )
    tensor_names = set(TargetWeights(target).file_of)
    for module in adapter.scales:
        if ".experts." in module or not re.search(r"\.\d+\.", module):
            raise UserError(
                f"{KEY}: {adapter.folder} changes {module}; only matrices of the decoder's layers "
                "outside experts are merged here: merge it with peft (merge_and_unload) and name "
                "the merged model in target.model"
            )
        endings = _name_endings(module)
        if not any(f".{name}".endswith(f".{endings[-1]}.weight") for name in tensor_names):
            raise UserError(
                f"{KEY}: {adapter.folder} changes {module}, which the target does not have: it is "
                "of another model"
            )


def merge(adapter: Adapter, model: Any) -> None:
    """Add the adapter in place to the weights of a transformers model, with or without its head.

    Raises UserError if a matrix is missing, has another shape, or is quantised.
    """
    import torch

    with open_tensors(adapter.folder / WEIGHTS, "pt") as handle, torch.no_grad():
        for name, scale in adapter.scales.items():
            lora_a, lora_b = (
                handle.get_tensor(f"{PREFIX}{name}.lora_{part}.weight").float() for part in "AB"
            )
            weight = _weight_of(adapter, model, name)
            if weight.shape != (len(lora_b), lora_a.shape[1]):
                raise UserError(
                    f"{KEY}: {adapter.folder} changes {name} by a matrix of "
                    f"{[len(lora_b), lora_a.shape[1]]}, the target's is {list(weight.shape)}: "
                    "it is of another model"
                )
            delta = scale * (lora_b @ lora_a)
            weight.copy_(weight.float() + delta.to(weight.device))


def _weight_of(adapter: Adapter, model: Any, name: str) -> Any:
    """The weight of the module that an adapter calls `name`."""
    import torch

    modules = dict(model.named_modules())
    for ending in _name_endings(name):
        module = modules.get(ending)
        if isinstance(module, torch.nn.Linear) and module.weight.dtype.itemsize > 1:
            return module.weight
    raise UserError(
        f"{KEY}: {adapter.folder} changes {name}, which is no plain matrix of the target as "
        "transformers loads it; merge it with peft (merge_and_unload) and name the merged model "
        "in target.model"
    )


def _name_endings(name: str) -> list[str]:
    """A module's name and its endings, down to the one that begins with the layer's number."""
    parts = name.split(".")
    first = next((i for i, part in enumerate(parts) if part.isdigit()), 1)
    return [".".join(parts[i:]) for i in range(max(first, 1))]


def _ranks(folder: Path) -> dict[str, int]:
    """The rank of every module that the adapter changes."""
    ranks: dict[str, int] = {}
    with open_tensors(folder / WEIGHTS) as handle:
        names = set(handle.keys())
        for name in sorted(names):
            match = re.fullmatch(re.escape(PREFIX) + r"(.+)\.lora_A\.weight", name)
            if match:
                ranks[match[1]] = handle.get_slice(name).get_shape()[0]
    expected = {f"{PREFIX}{name}.lora_{part}.weight" for name in ranks for part in "AB"}
    if not ranks or names != expected:
        mismatched = sorted(names ^ expected) or ["no tensor"]
        raise UserError(
            f"{KEY}: {folder / WEIGHTS} has or lacks {mismatched[0]}; must hold lora_A and lora_B "
            "of matrices alone"
        )
    return ranks


def _scale(config: Mapping[str, Any], name: str, rank: int) -> float:
    """alpha / rank, or alpha / sqrt(rank), where patterns may set alpha for some modules."""
    alpha = config.get("lora_alpha", 8)
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", name):
            alpha = value
            break
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)
