"""Rotary parameters of a draft: configured, or the target's if a draft can use them.

Engines read the draft as a Llama: one set of parameters, over whole heads, whose frequencies do not
depend on the length of the sequence (training reads positions of short documents and an engine
serves long ones). The draft is a separate model, so if the target's parameters are not of this
kind, it has plain ones. Everything is in the form of transformers 5: rope_type, rope_theta and the
parameters of the type.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from eagle3.errors import UserError

KEY = "draft.rope_scaling"
THETA = 10000.0  # of RoFormer; the default of readers
NEEDED: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "llama3": (
        *("factor", "low_freq_factor", "high_freq_factor"),
        "original_max_position_embeddings",
    ),
    # its frequencies depend on the original training length of the target
    "yarn": ("factor", "original_max_position_embeddings"),
}
OPTIONAL = {"yarn": ("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim")}
ROPE_TYPES = tuple(NEEDED)
# the three coordinates of a text position are equal, so these do not affect training
MROPE = ("mrope_section", "mrope_interleaved")


def chosen(
    theta: float | None, scaling: Mapping[str, Any], key: str = KEY
) -> tuple[float | None, dict[str, Any]]:
    """Theta, None if neither has one, and the other parameters of `draft.rope_theta` and
    `draft.rope_scaling` (transformers' `rope_scaling` or `rope_parameters`). `key`: name of the
    latter in errors.

    Raises UserError for parameters that a draft cannot have.
    """
    parameters = {name: value for name, value in scaling.items() if value is not None}
    kinds = {str(parameters.pop(name)) for name in ("rope_type", "type") if name in parameters}
    nested_theta = parameters.pop("rope_theta", None)
    if len(kinds) > 1:
        raise UserError(f"{key} has two types, {' and '.join(sorted(kinds))}; give rope_type alone")
    kind = next(iter(kinds), "default")
    if kind == "mrope":  # the name in transformers before version 4.49
        kind = "default"
    if kind not in ROPE_TYPES:
        raise UserError(
            f"{key} has rope_type {kind!r}, which no draft here can have; supported are "
            f"{', '.join(ROPE_TYPES)}"
        )
    if parameters.pop("partial_rotary_factor", 1.0) != 1.0:
        raise UserError(
            f"{key} has a partial_rotary_factor; a draft rotates whole heads: leave it out"
        )
    if nested_theta is not None:
        _check_number(key, "rope_theta", nested_theta)
        if theta is not None and theta != nested_theta:
            raise UserError(f"draft.rope_theta is {theta:g}, {key} says {nested_theta:g}; give one")
        theta = float(nested_theta)
    allowed = (*NEEDED[kind], *OPTIONAL.get(kind, ()))
    for name, value in parameters.items():
        if name in allowed:
            _check_number(key, name, value)
        elif name == "truncate" and kind == "yarn":
            _check_bool(key, name, value)
        elif name not in MROPE:
            raise UserError(
                f"{key} has {name}, which type {kind} does not know; its keys are "
                f"{', '.join(allowed) or 'none'}"
            )
    missing = [name for name in NEEDED[kind] if name not in parameters]
    if missing:
        raise UserError(f"{key} of type {kind} lacks {' and '.join(missing)}")
    if parameters.get("factor", 1.0) < 1.0:
        raise UserError(f"{key} has a factor of {parameters['factor']:g}; must be at least 1")
    return theta, {"rope_type": kind, **parameters}


def of_target(target: Any) -> tuple[dict[str, Any], str | None]:
    """The rotary parameters that a draft takes from a target (a transformers text configuration),
    and the reason if they differ from the target's."""
    parameters = getattr(target, "rope_parameters", None)
    if not isinstance(parameters, Mapping) or not parameters:
        return _plain(THETA), "the target has no rotary positions"
    by_layer_type = {
        name: values for name, values in parameters.items() if isinstance(values, Mapping)
    }
    if by_layer_type:
        full = by_layer_type.get("full_attention") or next(iter(by_layer_type.values()))
        return _plain(
            full.get("rope_theta")
        ), f"the target's rotary positions are of {len(by_layer_type)} kinds"
    if parameters.get("rope_theta") is None:
        return _plain(THETA), "the target has no rotary positions"
    kind, share = (
        parameters.get("rope_type", "default"),
        parameters.get("partial_rotary_factor") or 1.0,
    )
    if share != 1.0:
        reason = f"the target's rotary positions rotate {share:.0%} of a head"
        return _plain(parameters["rope_theta"]), reason
    if kind not in ROPE_TYPES:
        return _plain(
            parameters["rope_theta"]
        ), f"the target's rotary positions are of type {kind!r}"
    return {key: value for key, value in parameters.items() if value is not None}, None


def meaning(rope: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that determine the angles, with defaults for missing ones: two ropes rotate
    heads alike if these are equal."""
    kind = rope.get("rope_type", "default")
    values = {"rope_type": kind, "rope_theta": float(rope["rope_theta"])}
    values |= {name: float(rope[name]) for name in NEEDED[kind] if rope.get(name) is not None}
    if kind == "yarn":
        values |= {
            "beta_fast": float(rope.get("beta_fast") or 32),
            "beta_slow": float(rope.get("beta_slow") or 1),
            "truncate": rope.get("truncate") is not False,
            "attention_factor": round(attention_factor(rope), 6),
        }
    return values


def attention_factor(rope: Mapping[str, Any]) -> float:
    """The factor on cos and sin (YaRN, 3.4; with mscale as DeepSeek-V2 has it)."""
    if rope.get("rope_type") != "yarn":
        return 1.0
    if rope.get("attention_factor") is not None:
        return float(rope["attention_factor"])
    factor = rope.get("factor") or 1.0
    scales = [rope.get("mscale"), rope.get("mscale_all_dim")]
    if all(scales):
        return _magnitude(factor, scales[0]) / _magnitude(factor, scales[1])
    return _magnitude(factor, 1.0)


def _magnitude(factor: float, scale: Any) -> float:
    return 0.1 * float(scale) * math.log(factor) + 1.0 if factor > 1 else 1.0


def _plain(theta: Any) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": float(theta or THETA)}


def _check_number(key: str, name: str, value: Any) -> None:
    if type(value) not in (int, float) or not 0 < value < math.inf:
        raise UserError(f"{key} has {name} = {value!r}; must be a number above 0")


def _check_bool(key: str, name: str, value: Any) -> None:
    if type(value) is not bool:
        raise UserError(f"{key} has {name} = {value!r}; must be true or false")
