"""The target's output head and final norm, with the rules of its configuration for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from eagle3.target_model.logits import is_tied, logit_rules
from eagle3.target_model.weights import TargetWeights

HALF_PRECISION = (torch.bfloat16, torch.float16)

# Model types whose norms multiply by one plus the stored gain; tests compare transformers' modules
GAIN_MINUS_ONE = (
    *("gemma", "gemma2", "gemma3_text", "vaultgemma", "minimax_m3_vl_text", "nemotron"),
    *("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"),
)


@dataclass(frozen=True)
class Head:
    """The target's output head: logits(y) = cap(scale * (y @ weight.T + bias))."""

    weight: torch.Tensor  # [V, H]
    bias: torch.Tensor | None = None  # [V]
    scale: float = 1.0
    softcap: float | None = None

    def logits(self, last: torch.Tensor) -> torch.Tensor:
        """[R, H] post-norm states -> [R, V]"""
        return self.finish(torch.nn.functional.linear(last, self.weight, self.bias))

    def finish(self, products: torch.Tensor) -> torch.Tensor:
        """[R, V] products with the weight, bias added -> [R, V] logits"""
        if self.scale != 1.0:
            products = products * self.scale
        if self.softcap is not None:
            products = torch.tanh(products / self.softcap) * self.softcap
        return products

    def exact_logits(self, states: torch.Tensor) -> torch.Tensor:
        """[R, H] -> [R, V] in at least float32; no product is rounded."""
        return self.finish(self.exact_products(states))

    def exact_products(self, states: torch.Tensor) -> torch.Tensor:
        """[R, H] -> [R, V], states times weights plus the bias, in at least float32."""
        has_double = torch.float64 in (states.dtype, self.weight.dtype)
        dtype = torch.float64 if has_double else torch.float32
        bias = None if self.bias is None else self.bias.to(dtype)
        if states.is_cuda and states.dtype == self.weight.dtype and states.dtype in HALF_PRECISION:
            products = torch.mm(states, self.weight.T, out_dtype=torch.float32)
            return products if bias is None else products + bias
        return torch.nn.functional.linear(states.to(dtype), self.weight.to(dtype), bias)

    def part(self, first: int, stop: int) -> Head:
        """The head restricted to the tokens first … stop - 1; shares memory."""
        bias = None if self.bias is None else self.bias[first:stop]
        return Head(self.weight[first:stop], bias, self.scale, self.softcap)

    def rows(self, ids: torch.Tensor) -> Head:
        """The head restricted to the tokens `ids` [V'], in their order."""
        bias = None if self.bias is None else self.bias[ids]
        return Head(self.weight[ids], bias, self.scale, self.softcap)

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Head:
        bias = None if self.bias is None else self.bias.to(device, dtype)
        return Head(self.weight.to(device, dtype), bias, self.scale, self.softcap)


def read_head(weights: TargetWeights, config: Any, lm_head_key: str, embedding_key: str) -> Head:
    """The head, or the embedding where the two are tied.

    Raises UserError if the configuration changes logits in an unknown way.
    """
    scale, softcap = logit_rules(config)
    if is_tied(weights, config, lm_head_key):
        return Head(weights.read(embedding_key, "embedding_key"), None, scale, softcap)
    name = weights.check(lm_head_key, "lm_head_key")
    bias_name = name.removesuffix("weight") + "bias"
    bias = weights.read(bias_name, "lm_head_key") if bias_name in weights.file_of else None
    return Head(weights.read(name, "lm_head_key"), bias, scale, softcap)


def read_final_norm(weights: TargetWeights, config: Any, final_norm_key: str) -> torch.Tensor:
    """float32 [H]: the gain of the target's final norm, as a plain RMSNorm would use it."""
    gain = weights.read(final_norm_key, "final_norm_key").float()
    return gain + 1 if config.model_type in GAIN_MINUS_ONE else gain
