"""Rotary parameters of a draft: chosen, or taken from the target where a draft can use them.

Engines read the draft as a Llama: one set of parameters, over whole heads, whose frequencies do not
depend on the length of the sequence (training reads positions of short documents and an engine
serves long ones). The draft is a model of its own, so where the target's parameters are none of
these it has plain ones. Everything is in the form of transformers 5: rope_type, rope_theta and what
the type needs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from eagle3.errors import UserError

KEY = "draft.rope_scaling"
THETA = 10000.0  # of RoFormer; what readers take where nothing is said
NEEDED: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "llama3": (
        *("factor", "low_freq_factor", "high_freq_factor"),
        "original_max_position_embeddings",
    ),
    # its frequencies depend on the length that the target was first trained at
    "yarn": ("factor", "original_max_position_embeddings"),
}
OPTIONAL = {"yarn": ("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim")}
ROPE_TYPES = tuple(NEEDED)
# of a position in a text all three figures are alike, so these change nothing in training
MROPE = ("mrope_section", "mrope_interleaved")


def chosen(
    theta: float | None, scaling: Mapping[str, Any], key: str = KEY
) -> tuple[float | None, dict[str, Any]]:
    """Theta, None if neither says one, and the parameters besides, of `draft.rope_theta` and
    `draft.rope_scaling` (transformers' `rope_scaling` or `rope_parameters`). `key`: what refusals
    call the latter.

    Raises UserError in one sentence for what a draft cannot have.
    """
    given = {name: value for name, value in scaling.items() if value is not None}
    kinds = {str(given.pop(name)) for name in ("rope_type", "type") if name in given}
    inside = given.pop("rope_theta", None)
    if len(kinds) > 1:
        raise UserError(f"{key} has two types, {' and '.join(sorted(kinds))}; give rope_type alone")
    kind = next(iter(kinds), "default")
    if kind == "mrope":  # what transformers called it before version 4.49
        kind = "default"
    if kind not in ROPE_TYPES:
        raise UserError(
            f"{key} has rope_type {kind!r}, which no draft here can have; supported are "
            f"{', '.join(ROPE_TYPES)}"
        )
    if given.pop("partial_rotary_factor", 1.0) != 1.0:
        raise UserError(
            f"{key} has a partial_rotary_factor; a draft rotates whole heads: leave it out"
        )
    if inside is not None:
        _check_number(key, "rope_theta", inside)
        if theta is not None and theta != inside:
            raise UserError(f"draft.rope_theta is {theta:g}, {key} says {inside:g}; give one")
        theta = float(inside)
    known = (*NEEDED[kind], *OPTIONAL.get(kind, ()))
    for name, value in given.items():
        if name in known:
            _check_number(key, name, value)
        elif name == "truncate" and kind == "yarn":
            _check_bool(key, name, value)
        elif name not in MROPE:
            raise UserError(
                f"{key} has {name}, which type {kind} does not know; its keys are "
                f"{', '.join(known) or 'none'}"
            )
    missing = [name for name in NEEDED[kind] if name not in given]
    if missing:
        raise UserError(f"{key} of type {kind} lacks {' and '.join(missing)}")
    if given.get("factor", 1.0) < 1.0:
        raise UserError(f"{key} has a factor of {given['factor']:g}; must be at least 1")
    return theta, {"rope_type": kind, **given}


def of_target(target: Any) -> tuple[dict[str, Any], str | None]:
    """The rotary parameters that a draft takes from a target (a transformers text configuration),
    and if they are not the target's own, why they cannot be."""
    given = getattr(target, "rope_parameters", None)
    if not isinstance(given, Mapping) or not given:
        return _plain(THETA), "the target has no rotary positions"
    sets = {name: one for name, one in given.items() if isinstance(one, Mapping)}
    if sets:
        full = sets.get("full_attention") or next(iter(sets.values()))
        return _plain(
            full.get("rope_theta")
        ), f"the target's rotary positions are of {len(sets)} kinds"
    if given.get("rope_theta") is None:
        return _plain(THETA), "the target has no rotary positions"
    kind, share = given.get("rope_type", "default"), given.get("partial_rotary_factor") or 1.0
    if share != 1.0:
        reason = f"the target's rotary positions rotate {share:.0%} of a head"
        return _plain(given["rope_theta"]), reason
    if kind not in ROPE_TYPES:
        return _plain(given["rope_theta"]), f"the target's rotary positions are of type {kind!r}"
    return {key: value for key, value in given.items() if value is not None}, None


def meaning(rope: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that angles follow from, with the defaults of those that are not written: two
    ropes rotate heads alike if these are equal."""
    kind = rope.get("rope_type", "default")
    found = {"rope_type": kind, "rope_theta": float(rope["rope_theta"])}
    found |= {name: float(rope[name]) for name in NEEDED[kind] if rope.get(name) is not None}
    if kind == "yarn":
        found |= {
            "beta_fast": float(rope.get("beta_fast") or 32),
            "beta_slow": float(rope.get("beta_slow") or 1),
            "truncate": rope.get("truncate") is not False,
            "attention_factor": round(attention_factor(rope), 6),
        }
    return found


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
