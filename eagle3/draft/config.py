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
WIDTH_RATIO = 3.5  # MLP over hidden size if the target has no dense width: that of Llama 3


@dataclass(frozen=True)
class DraftConfig:
    """Llama decoder layers, usually one, over the target's hidden states.

    `rope` has transformers' form: rope_type, rope_theta and the parameters of the type. `qk_norm`:
    an RMSNorm over each head of queries and keys, as in Qwen3. EAGLE-3.1: `fc_norm`, an RMSNorm
    over each of the aux chunks before fc; `norm_output`, the output of `norm` is fed back.
    `norm_before_residual`: attention is added to the output of `hidden_norm`.
    `num_hidden_layers`: the first reads embedding and state, 2H wide; the others are plain layers.
    `sliding_window`: maximum keys that a query sees, its own included; None: all up to its own.
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

    `overrides`: section `draft` of the settings, merged with `draft.config`; None takes the
    target's value if a draft can have it, else one of `compromises`. The MLP has the target's dense
    width: `intermediate_size`, never the width of one expert.
    Raises UserError if the shape is impossible or the file belongs to another target.
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
    """A sentence for each value of the target that the draft cannot have, naming the key that
    overrides it."""
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
    """Raise UserError if the file of `draft.config` belongs to another target or run."""
    for name in ("hidden_size", "vocab_size"):
        stated = overrides.get(name)
        if stated is not None and stated != getattr(target, name):
            raise UserError(
                f"draft.config says {name} {stated}, the target's is {getattr(target, name)}: it "
                "is the configuration of another target's draft"
            )
    stated = overrides.get("draft_vocab_size")
    if stated is not None and stated != draft_vocab_size:
        raise UserError(
            f"draft.config says draft_vocab_size {stated}, vocab.draft_vocab_size is "
            f"{draft_vocab_size}: set it to {stated}, or remove it from the file"
        )
    stated = overrides.get("num_aux_hidden_states")
    if stated is not None and stated != layers:
        raise UserError(
            f"draft.config says num_aux_hidden_states {stated} and not which layers; the draft "
            f"reads {layers}: name them in hidden_states.aux_layers"
        )


def _shape(target: Any, overrides: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The shape of the layers, and the sentences of `compromises`."""
    hidden, requested = target.hidden_size, {name: overrides.get(name) for name in KEYS}
    notes: list[str] = []
    heads, kv_heads = _heads(target, requested, notes)
    head_dim = requested["head_dim"] or _head_dim(target, heads, notes)
    width = requested["intermediate_size"] or dense_width(target)
    if width is None:
        width = -(-int(WIDTH_RATIO * hidden) // 64) * 64
        notes.append(
            f"the target names no dense width; the draft's is {width}, {WIDTH_RATIO:g} times the "
            "hidden size (draft.intermediate_size)"
        )
    if head_dim % 2:
        raise UserError(f"draft.head_dim is {head_dim}; rotary positions need an even width")
    context = requested["max_position_embeddings"] or target.max_position_embeddings
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
        "rms_norm_eps": requested["rms_norm_eps"] or getattr(target, "rms_norm_eps", None) or 1e-6,
        "max_position_embeddings": context,
        "rope": _rope(target, overrides, notes),
        "num_hidden_layers": overrides.get("num_hidden_layers") or 1,
        "sliding_window": overrides.get("sliding_window"),
        **{name: bool(overrides.get(name)) for name in SWITCHES},
    }
    return shape, notes


def _heads(target: Any, requested: Mapping[str, Any], notes: list[str]) -> tuple[int, int]:
    """Numbers of query heads and of key heads. A Llama's query heads divide its hidden size."""
    hidden = target.hidden_size
    heads = requested["num_attention_heads"] or figure(target, "num_attention_heads")
    if heads is None:
        raise UserError(
            f"draft.num_attention_heads: the target ({target.model_type}) has no attention whose "
            "heads the draft could have; give their number"
        )
    kv_heads = requested["num_key_value_heads"] or figure(target, "num_key_value_heads") or heads
    inherited = not (requested["num_attention_heads"] or requested["num_key_value_heads"])
    if inherited and (hidden % heads or heads % kv_heads):
        usable = [n for n in range(1, heads + 1) if hidden % n == 0]
        grouped = [n for n in usable if n % kv_heads == 0 and 2 * n >= heads]
        reduced = max(grouped or usable)
        kv_reduced = max(n for n in range(1, min(kv_heads, reduced) + 1) if reduced % n == 0)
        notes.append(
            f"the target's {heads} heads with {kv_heads} of keys do not divide its hidden size "
            f"{hidden}, as a Llama's must; the draft has {reduced} with {kv_reduced} "
            "(draft.num_attention_heads)"
        )
        return reduced, kv_reduced
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
    """The target's head width, else its hidden size divided by its heads."""
    target_dim = figure(target, "head_dim")
    if target_dim is None and "head_dim" in target.to_dict():
        # layers differ in width: the configuration has that of most layers
        target_dim = target.to_dict()["head_dim"]
        if target_dim is not None:
            notes.append(
                f"the target's heads are not of one width; the draft's are {target_dim} wide "
                "(draft.head_dim)"
            )
    if target_dim is not None:
        return int(target_dim)
    target_heads = figure(target, "num_attention_heads") or heads
    # an overridden number of heads changes no width if the target's heads divide its hidden size
    return int(target.hidden_size // (heads if target.hidden_size % target_heads else target_heads))


def _rope(target: Any, overrides: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    """Rotary parameters: overrides take precedence over the target's."""
    theta, scaling = overrides.get("rope_theta"), overrides.get("rope_scaling")
    target_rope, reason = rope_parameters.of_target(target)
    if scaling is not None:
        theta, parameters = rope_parameters.chosen(theta, scaling)
        if "mrope_section" in parameters and "mrope_section" not in target_rope:
            raise UserError(
                f"{rope_parameters.KEY} has an mrope_section, but the target's positions are "
                "those of a text: leave it out"
            )
        return {**parameters, "rope_theta": theta or target_rope["rope_theta"]}
    if theta is not None:
        return {**target_rope, "rope_theta": theta}
    if reason is not None:
        notes.append(
            f"{reason}; the draft's are plain, over whole heads, with theta "
            f"{target_rope['rope_theta']:.10g} (draft.rope_theta, draft.rope_scaling)"
        )
    return target_rope


def check_pair(folder: Path, draft: DraftConfig, target: Any) -> None:
    """Raise UserError if a draft cannot be this target's (a transformers text configuration)."""
    pairs = {
        "hidden_size": (draft.hidden_size, target.hidden_size),
        "vocab_size": (draft.vocab_size, target.vocab_size),
    }
    for name, (draft_value, target_value) in pairs.items():
        if draft_value != target_value:
            raise UserError(
                f"{folder}: the draft's {name} is {draft_value}, the target's {target_value}: it "
                "was trained for another target"
            )
    if max(draft.aux_layers) >= layer_count(target):
        raise UserError(
            f"{folder}: the draft reads layers {list(draft.aux_layers)}, the target has "
            f"{layer_count(target)}: it was trained for another target"
        )
