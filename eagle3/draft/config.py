"""Shape of the draft, derived from the target's configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from eagle3.errors import UserError

# Types whose frequencies do not depend on the length of the sequence: training reads positions of
# short documents and an engine serves long ones, so the others would rotate differently there.
ROPE_TYPES = ("default", "linear", "llama3", "yarn")


@dataclass(frozen=True)
class DraftConfig:
    """One Llama decoder layer over the target's hidden states.

    `rope` is in transformers' own form: rope_type, rope_theta and what the type needs. `qk_norm`:
    an RMSNorm over each head of queries and keys, as in Qwen3. EAGLE-3.1: `fc_norm`, an RMSNorm
    over each of the three aux chunks before fc; `norm_output`, the state behind `norm` is fed back.
    """

    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    draft_vocab_size: int
    rms_norm_eps: float
    max_position_embeddings: int
    rope: dict[str, Any]
    aux_layers: tuple[int, int, int]
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    qk_norm: bool = False
    fc_norm: bool = False
    norm_output: bool = False

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "aux_layers": list(self.aux_layers)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DraftConfig:
        return cls(**{**values, "aux_layers": tuple(values["aux_layers"])})


def derive_config(
    target: Any,
    overrides: Mapping[str, Any],
    draft_vocab_size: int,
    aux_layers: tuple[int, int, int],
) -> DraftConfig:
    """The draft of `target` (a transformers text configuration).

    `overrides`: the configuration's `draft` section; None takes the target's figure. The MLP has
    the target's dense width: `intermediate_size`, never the width of one expert.
    Raises UserError if heads do not divide or the rotary positions are of no supported type.
    """

    def pick(name: str, default: Any) -> Any:
        return default if overrides.get(name) is None else overrides[name]

    heads = pick("num_attention_heads", target.num_attention_heads)
    kv_heads = pick("num_key_value_heads", getattr(target, "num_key_value_heads", None) or heads)
    own_head_dim = getattr(target, "head_dim", None)
    head_dim = pick("head_dim", own_head_dim or target.hidden_size // target.num_attention_heads)
    width = pick("intermediate_size", dense_width(target))
    if width is None:
        raise UserError("draft.intermediate_size: the target has no dense width; set one")
    if heads % kv_heads:
        raise UserError(
            f"draft.num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}"
        )
    if target.hidden_size % heads:
        raise UserError(
            f"draft.num_attention_heads {heads} does not divide the target's hidden_size "
            f"{target.hidden_size}; engines read the draft as a Llama, whose configuration must"
        )
    if head_dim % 2:
        raise UserError(f"draft.head_dim is {head_dim}; rotary positions need an even width")
    return DraftConfig(
        hidden_size=target.hidden_size,
        intermediate_size=width,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        vocab_size=target.vocab_size,
        draft_vocab_size=draft_vocab_size,
        rms_norm_eps=getattr(target, "rms_norm_eps", 1e-6),
        max_position_embeddings=target.max_position_embeddings,
        rope=_rope(target),
        aux_layers=aux_layers,
        bos_token_id=target.bos_token_id,
        eos_token_id=target.eos_token_id,
        **{name: bool(overrides.get(name)) for name in ("qk_norm", "fc_norm", "norm_output")},
    )


def check_heads(draft: DraftConfig, size: int) -> None:
    """Raise UserError if the heads cannot be divided among the ranks of a Ulysses group."""
    heads, kv = draft.num_attention_heads, draft.num_key_value_heads
    if heads % size or (kv % size and size % kv):
        raise UserError(
            f"resources.train.sp_ulysses_size: {size} ranks cannot divide the draft's {heads} "
            f"heads with {kv} of keys: take one that divides {heads} and that divides {kv} or is "
            "a multiple of it, or share by sp_ring_size"
        )


def dense_width(target: Any) -> int | None:
    """The target's own, None where `intermediate_size` is one expert's (Mixtral, gpt-oss)."""
    only_experts = getattr(target, "num_local_experts", 0) and not hasattr(
        target, "moe_intermediate_size"
    )
    return None if only_experts else getattr(target, "intermediate_size", None)


def _rope(target: Any) -> dict[str, Any]:
    """The target's rotary parameters, without the keys that are null."""
    parameters = getattr(target, "rope_parameters", None)
    if not parameters or "rope_theta" not in parameters:
        raise UserError(
            f"target.model: its configuration ({target.model_type}) has no single set of rotary "
            "parameters with a rope_theta; such targets are not supported"
        )
    kind, share = (
        parameters.get("rope_type", "default"),
        parameters.get("partial_rotary_factor") or 1.0,
    )
    if kind not in ROPE_TYPES or share != 1.0:
        raise UserError(
            f"target.model: its rotary positions are of type {kind!r} over {share:.0%} of a head; "
            f"supported are {', '.join(ROPE_TYPES)} over whole heads"
        )
    return {key: value for key, value in parameters.items() if value is not None}


def check_pair(folder: Path, draft: DraftConfig, target: Any) -> None:
    """Raise UserError if a draft cannot be this target's (a transformers text configuration)."""
    pairs = {
        "hidden_size": (draft.hidden_size, target.hidden_size),
        "vocab_size": (draft.vocab_size, target.vocab_size),
    }
    for name, (own, other) in pairs.items():
        if own != other:
            raise UserError(
                f"{folder}: the draft's {name} is {own}, the target's {other}: it was trained for "
                "another target"
            )
    if max(draft.aux_layers) >= target.num_hidden_layers:
        raise UserError(
            f"{folder}: the draft reads layers {list(draft.aux_layers)}, the target has "
            f"{target.num_hidden_layers}: it was trained for another target"
        )
