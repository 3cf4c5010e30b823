"""Values of SpecForge's flags as values of keys, by the kind of a flag (`eagle3.cli.specforge`)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

from eagle3.cli.material import PLACES
from eagle3.config.tokens import TemplateName
from eagle3.errors import UserError
from eagle3.files.hub import HUB, HUB_NAME

CAMEL = ["camel-biology", "camel-chemistry", "camel-physics"]
ATTENTION = {"usp": "usp", "flex_attention": "flex"}
LOSSES = {"lambda": "lk_hybrid", "alpha": "lk_alpha"}


def plain(value: str) -> Any:
    """The parsed value if it is JSON, such as a number; else the text."""
    try:
        return json.loads(value)
    except ValueError:
        return value


def integer(value: str, origin: str) -> int:
    if not re.fullmatch(r"\d+", value):
        raise UserError(f"--from-specforge: {origin} is {value!r}, but must be a whole number")
    return int(value)


def _number(value: str, origin: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise UserError(f"--from-specforge: {origin} is {value!r}, but must be a number") from None


def _model(value: str, origin: str) -> str:
    on_hub = HUB_NAME.fullmatch(value) and not Path(value).exists()
    return f"{HUB}{value}" if on_hub else value


def _name(value: str, origin: str) -> Any:
    if value == "camel":
        return CAMEL
    if value not in PLACES:
        raise UserError(
            f"--from-specforge: {origin} is {value!r}, which is no known dataset (docs/datasets.md "
            "lists the names); give the file that it wrote with --data-path instead"
        )
    return value


def _choice(allowed: dict[str, str], fallback: str) -> Callable[[str, str], str]:
    return lambda value, origin: allowed.get(value, fallback)


READERS: dict[str, Callable[[str, str], Any]] = {
    "text": lambda value, origin: value,
    "yes": lambda value, origin: True,
    "integer": integer,
    "count": integer,
    "number": _number,
    "numbers": lambda value, origin: [integer(one.strip(), origin) for one in value.split(",")],
    "name": _name,
    "model": _model,
    "template": lambda value, origin: value if value in get_args(TemplateName) else "auto",
    "compressed": lambda value, origin: "bf16_zstd",
    "backend": _choice({"sglang": "sglang"}, "hf"),
    "loss": _choice(LOSSES, "soft_ce"),
    "attention": _choice(ATTENTION, "auto"),
    "tracker": _choice({name: name for name in ("wandb", "tensorboard", "mlflow")}, "none"),
}
