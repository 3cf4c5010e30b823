"""Limits of the engine of each export format. Imports no torch: used before any job starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from eagle3.config.evaluation import Format
from eagle3.draft.rope_parameters import attention_factor
from eagle3.errors import UserError

# switches of the draft that a format cannot carry, and why: the engine would silently drop them
LACKING = {
    ("sglang", "qk_norm"): "SGLang's draft class (0.5.23) has no q/k norm and drops such tensors",
    ("sglang", "norm_before_residual"): "SGLang's draft class (0.5.23) adds to the state itself",
    ("sglang", "sliding_window"): "SGLang (0.5.23) leaves the window in config.json unread",
}
# keys of YaRN that an engine ignores, using its own factor on cos and sin instead
UNREAD_YARN = {"sglang": ("attention_factor",)}  # factory.py of rotary_embedding, 0.5.23

# model types of targets whose class in SGLang (`set_eagle3_layers_to_capture`, 0.5.23) reads layer
# ids as outputs only if the first one is 1, else as inputs
SGLANG_COUNTS_INPUTS = (
    *("deepseek_v2", "deepseek_v3", "deepseek_v32"),
    *("glm_moe_dsa", "glm4_moe_lite"),
)

# model types of targets whose class in SGLang (0.5.23) gives a draft other states than the outputs
# of layers: Gemma 3's adds to them in place, in the next layer's norm
SGLANG_OTHER_STATES = ("gemma3_text",)


def check_formats(formats: Sequence[str], draft: Mapping[str, Any]) -> None:
    """Raise UserError if a format cannot carry a switch that is on in `draft`."""
    for (fmt, switch), reason in LACKING.items():
        if fmt in formats and draft.get(switch):
            others = [name for name in get_args(Format) if (name, switch) not in LACKING]
            on, off = ("true", "false") if draft[switch] is True else (draft[switch], "null")
            raise UserError(
                f"config: export.formats is {list(formats)} but draft.{switch} is {on}: {reason} "
                f"without a word; use formats of {others}, or set draft.{switch} to {off}"
            )


def check_aux_layers(
    formats: Sequence[str], aux_layers: Sequence[int], target_layers: int | None = None
) -> None:
    """Raise UserError if the engine of a format would not fuse the states of these layers.
    `target_layers`: number of layers of the target, if known."""
    if "sglang" in formats and target_layers is not None and max(aux_layers) == target_layers - 1:
        raise UserError(
            f"config: export.formats is {list(formats)} but hidden_states.aux_layers is "
            f"{list(aux_layers)}: SGLang (0.5.23) hands on no output of the last layer, so the "
            f"draft's fc would miss a state; use layers below {target_layers - 1}, or leave that "
            "form out"
        )
    if "sglang" in formats and len(aux_layers) == 1:
        raise UserError(
            f"config: export.formats is {list(formats)} but hidden_states.aux_layers is "
            f"{list(aux_layers)}: SGLang's draft class (0.5.23) takes the target's states for the "
            "draft's own if they are as wide, and leaves fc out without a word; name two layers or "
            "more, or leave that form out"
        )


def check_layer_ids(
    formats: Sequence[str], backend: str, aux_layers: Sequence[int], model_type: str
) -> None:
    """Raise UserError if SGLang is used to serve or capture, and would read the states of other
    layers of a target of this type."""
    uses_sglang = "sglang" in formats or backend == "sglang"
    if uses_sglang and model_type in SGLANG_COUNTS_INPUTS and aux_layers[0] != 1:
        raise UserError(
            f"hidden_states.aux_layers is {list(aux_layers)}, and the target a {model_type}, of "
            "which SGLang (0.5.23) takes the outputs of these layers only if the first one is 1, "
            "else of those before them without a word: begin with layer 1, or use SGLang neither "
            "in export.formats nor as hidden_states.backend"
        )


def served_otherwise(formats: Sequence[str], model_type: str) -> list[str]:
    """A sentence for each engine that would serve the draft unlike it was trained; not an error,
    since other versions of the engine do not. `model_type`: of the target."""
    if "sglang" not in formats or model_type not in SGLANG_OTHER_STATES:
        return []
    return [
        f"SGLang 0.5.23 hands a draft of a {model_type} states that the next layer's norm has "
        "changed already, with which it accepts less than is measured here: serve it by another "
        "version, and measure there (eagle3 serve-check)"
    ]


def check_rope(formats: Sequence[str], rope: Mapping[str, Any]) -> None:
    """Raise UserError if the engine of a format would rotate the draft's heads differently."""
    for fmt in formats:
        unread = [name for name in UNREAD_YARN.get(fmt, ()) if rope.get(name) is not None]
        effective = {name: value for name, value in rope.items() if name not in unread}
        if attention_factor(effective) != attention_factor(rope):
            raise UserError(
                f"config: export.formats is {list(formats)} but the draft's rotary positions have "
                f"{' and '.join(unread)}, which the engine of {fmt} does not read; leave them out "
                "in draft.rope_scaling, or leave that form out"
            )
