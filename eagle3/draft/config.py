"""Shape of the draft, derived from the target's configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from eagle3.draft import rope_parameters
from eagle3.errors import UserError
from eagle3.target_model.config import dense_width, figure
from eagle3.target_model.layers import layer_count

KEYS = (
    *("intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim"),
    *("rms_norm_eps", "max_position_embeddings"),
)
SWITCHES = ("qk_norm", "fc_norm", "norm_output", "norm_before_residual")
WIDTH_RATIO = 3.5  # of the MLP where the target names none: Llama 3's


@dataclass(frozen=True)
class DraftConfig:
    """Llama decoder layers, most often one, over the target's hidden states.

    `rope` is in transformers' own form: rope_type, rope_theta and what the type needs. `qk_norm`:
    an RMSNorm over each head of queries and keys, as in Qwen3. EAGLE-3.1: `fc_norm`, an RMSNorm
    over each of the aux chunks before fc; `norm_output`, the state behind `norm` is fed back.
    `norm_before_residual`: what attention is added to is behind `hidden_norm`.
    `num_hidden_layers`: the first reads embedding and state, 2H wide, those behind it are plain.
    `sliding_window`: keys that a query sees at most, its own included; None: all before it.
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
    aux_layers: tuple[int, ...]
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    qk_norm: bool = False
    fc_norm: bool = False
    norm_output: bool = False
    norm_before_residual: bool = False
    num_hidden_layers: int = 1
    sliding_window: int | None = None

    @property
    def aux_width(self) -> int:
        """Numbers in a row of aux: the states of its layers side by side."""
        return len(self.aux_layers) * self.hidden_size

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "aux_layers": list(self.aux_layers)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DraftConfig:
        return cls(**{**values, "aux_layers": tuple(values["aux_layers"])})


def derive_config(
    target: Any,
    overrides: Mapping[str, Any],
    draft_vocab_size: int,
    aux_layers: tuple[int, ...],
) -> DraftConfig:
    """The draft of `target` (a transformers text configuration).

    `overrides`: section `draft` of the settings, with what `draft.config` says; None takes the
    target's figure where a draft can have it, else one of `compromises`. The MLP has the target's
    dense width: `intermediate_size`, never the width of one expert.
    Raises UserError if the shape cannot be, or if the file is of another target.
    """
    _check_file(target, overrides, draft_vocab_size, len(aux_layers))
    shape, _ = _shape(target, overrides)
    return DraftConfig(
        hidden_size=target.hidden_size,
        vocab_size=target.vocab_size,
        draft_vocab_size=draft_vocab_size,
        aux_layers=aux_layers,
        bos_token_id=getattr(target, "bos_token_id", None),
        eos_token_id=getattr(target, "eos_token_id", None),
        **shape,
    )


def compromises(target: Any, overrides: Mapping[str, Any]) -> list[str]:
    """Where the draft is not shaped as the target, since it cannot be: a sentence each, that names
    the key which says otherwise."""
    return _shape(target, overrides)[1]


def check_heads(draft: DraftConfig, size: int) -> None:
    """Raise UserError if the heads cannot be divided among the ranks of a Ulysses group."""
    heads, kv = draft.num_attention_heads, draft.num_key_value_heads
    if heads % size or (kv % size and size % kv):
        raise UserError(
            f"resources.train.sp_ulysses_size: {size} ranks cannot divide the draft's {heads} "
            f"heads with {kv} of keys: take one that divides {heads} and that divides {kv} or is "
            "a multiple of it, or share by sp_ring_size"
        )


def _check_file(
    target: Any, overrides: Mapping[str, Any], draft_vocab_size: int, layers: int
) -> None:
    """A file of `draft.config` is of this target and of this run."""
    for name in ("hidden_size", "vocab_size"):
        said = overrides.get(name)
        if said is not None and said != getattr(target, name):
            raise UserError(
                f"draft.config says {name} {said}, the target's is {getattr(target, name)}: it is "
                "the configuration of another target's draft"
            )
    said = overrides.get("draft_vocab_size")
    if said is not None and said != draft_vocab_size:
        raise UserError(
            f"draft.config says draft_vocab_size {said}, vocab.draft_vocab_size is "
            f"{draft_vocab_size}: set it to {said}, or remove it from the file"
        )
    said = overrides.get("num_aux_hidden_states")
    if said is not None and said != layers:
        raise UserError(
            f"draft.config says num_aux_hidden_states {said} and not which layers; the draft reads "
            f"{layers}: name them in hidden_states.aux_layers"
        )


def _shape(target: Any, overrides: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The figures of the layer, and the sentences of `compromises`."""
    hidden, said = target.hidden_size, {name: overrides.get(name) for name in KEYS}
    notes: list[str] = []
    heads, kv_heads = _heads(target, said, notes)
    head_dim = said["head_dim"] or _head_dim(target, heads, notes)
    width = said["intermediate_size"] or dense_width(target)
    if width is None:
        width = -(-int(WIDTH_RATIO * hidden) // 64) * 64
        notes.append(
            f"the target names no dense width; the draft's is {width}, {WIDTH_RATIO:g} times the "
            "hidden size (draft.intermediate_size)"
        )
    if head_dim % 2:
        raise UserError(f"draft.head_dim is {head_dim}; rotary positions need an even width")
    context = said["max_position_embeddings"] or target.max_position_embeddings
    if context < target.max_position_embeddings:
        notes.append(
            f"its context of {context} tokens is less than the target's "
            f"{target.max_position_embeddings}; SGLang serves it with --context-length {context} "
            "or less only (draft.max_position_embeddings)"
        )
    shape = {
        "intermediate_size": width,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "rms_norm_eps": said["rms_norm_eps"] or getattr(target, "rms_norm_eps", None) or 1e-6,
        "max_position_embeddings": context,
        "rope": _rope(target, overrides, notes),
        "num_hidden_layers": overrides.get("num_hidden_layers") or 1,
        "sliding_window": overrides.get("sliding_window"),
        **{name: bool(overrides.get(name)) for name in SWITCHES},
    }
    return shape, notes


def _heads(target: Any, said: Mapping[str, Any], notes: list[str]) -> tuple[int, int]:
    """Heads of queries and of keys: a Llama's hidden size is a multiple of the former."""
    hidden = target.hidden_size
    heads = said["num_attention_heads"] or figure(target, "num_attention_heads")
    if heads is None:
        raise UserError(
            f"draft.num_attention_heads: the target ({target.model_type}) has no attention whose "
            "heads the draft could have; give their number"
        )
    kv_heads = said["num_key_value_heads"] or figure(target, "num_key_value_heads") or heads
    own = not (said["num_attention_heads"] or said["num_key_value_heads"])
    if own and (hidden % heads or heads % kv_heads):
        usable = [n for n in range(1, heads + 1) if hidden % n == 0]
        grouped = [n for n in usable if n % kv_heads == 0 and 2 * n >= heads]
        fewer = max(grouped or usable)
        kv_fewer = max(n for n in range(1, min(kv_heads, fewer) + 1) if fewer % n == 0)
        notes.append(
            f"the target's {heads} heads with {kv_heads} of keys do not divide its hidden size "
            f"{hidden}, as a Llama's must; the draft has {fewer} with {kv_fewer} "
            "(draft.num_attention_heads)"
        )
        return fewer, kv_fewer
    if heads % kv_heads:
        raise UserError(
            f"draft.num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}"
        )
    if hidden % heads:
        raise UserError(
            f"draft.num_attention_heads {heads} does not divide the target's hidden_size "
            f"{hidden}; engines read the draft as a Llama, whose configuration must"
        )
    return heads, kv_heads


def _head_dim(target: Any, heads: int, notes: list[str]) -> int:
    """The target's own, else its hidden size shared out among its heads."""
    own = figure(target, "head_dim")
    if own is None and "head_dim" in target.to_dict():
        # layers of several widths: the configuration writes that of the most of them
        own = target.to_dict()["head_dim"]
        if own is not None:
            notes.append(
                f"the target's heads are not of one width; the draft's are {own} wide "
                "(draft.head_dim)"
            )
    if own is not None:
        return int(own)
    shared = figure(target, "num_attention_heads") or heads
    # more heads than the target's do not make a head narrower, unless its own are of no width
    return int(target.hidden_size // (heads if target.hidden_size % shared else shared))


def _rope(target: Any, overrides: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    """Rotary parameters: what is chosen goes before the target's."""
    theta, scaling = overrides.get("rope_theta"), overrides.get("rope_scaling")
    own, reason = rope_parameters.of_target(target)
    if scaling is not None:
        theta, parameters = rope_parameters.chosen(theta, scaling)
        if "mrope_section" in parameters and "mrope_section" not in own:
            raise UserError(
                f"{rope_parameters.KEY} has an mrope_section, but the target's positions are "
                "those of a text: leave it out"
            )
        return {**parameters, "rope_theta": theta or own["rope_theta"]}
    if theta is not None:
        return {**own, "rope_theta": theta}
    if reason is not None:
        notes.append(
            f"{reason}; the draft's are plain, over whole heads, with theta "
            f"{own['rope_theta']:.10g} (draft.rope_theta, draft.rope_scaling)"
        )
    return own


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
    if max(draft.aux_layers) >= layer_count(target):
        raise UserError(
            f"{folder}: the draft reads layers {list(draft.aux_layers)}, the target has "
            f"{layer_count(target)}: it was trained for another target"
        )
