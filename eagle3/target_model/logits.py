"""Rules for logits in a target's configuration. Imports no torch: used before any job."""

from __future__ import annotations

from typing import Any

from eagle3.errors import UserError
from eagle3.target_model.weights import TargetWeights

# Configuration keys about logits, by their effect. A key that seems to change logits but is
# not listed here is refused: it would silently make every teacher wrong.
SOFTCAP_KEYS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
MULTIPLIER_KEYS = ("logit_scale", "lm_head_multiplier")  # Cohere, Falcon-H1: logits * scale
DIVISOR_KEYS = ("logits_scaling", "logits_mup_width_multiplier")  # Granite, Inkling: / scale
HARMLESS_KEYS = (  # of attention, of routers, of generation
    *("attn_logit_softcapping", "moe_router_logit_softcapping"),
    *("num_logits_to_keep", "output_router_logits"),
)


def is_tied(weights: TargetWeights, config: Any, lm_head_key: str) -> bool:
    """Whether the input embedding is the output head too, because the files hold no head."""
    tied = getattr(config, "tie_word_embeddings", False)
    return bool(tied) and weights.name_of(lm_head_key) is None


def check_head(weights: TargetWeights, name: str) -> None:
    """Raise UserError if the head, whose weight is called `name`, is more than a matrix and a bias:
    if it contains a norm or a layer, or is quantised."""
    prefix = name.removesuffix("weight")
    extra = sorted(
        tensor
        for tensor in weights.file_of
        if tensor not in (name, f"{prefix}bias")
        and (tensor.startswith(prefix) or ".lm_head." in f".{tensor}")
    )
    if extra and prefix:
        raise UserError(
            f"target.lm_head_key: the head is more than a matrix, the target has {extra[0]} too; "
            "draft and teacher read a plain head: name another target"
        )


def logit_rules(config: Any) -> tuple[float, float | None]:
    """Scale and soft cap that the target applies to its logits.

    Raises UserError for an unknown rule.
    """
    scale, softcap = 1.0, None
    known_keys = (*SOFTCAP_KEYS, *MULTIPLIER_KEYS, *DIVISOR_KEYS, *HARMLESS_KEYS)
    base = getattr(config, "dim_model_base", None)
    if base:  # MiniCPM: what the head reads is divided by the hidden size over this
        scale *= base / config.hidden_size
    for key, value in config.to_dict().items():
        if not ("logit" in key or "lm_head" in key) or value is None or value is False:
            continue
        if key not in known_keys:
            raise UserError(
                f"target.model: its configuration has {key} = {value!r}, a rule on logits that is "
                "not known here; the draft would learn wrong distributions"
            )
        if key in MULTIPLIER_KEYS:
            scale *= value
        elif key in DIVISOR_KEYS:
            scale /= value
        elif key in SOFTCAP_KEYS:
            softcap = float(value)
    return scale, softcap
