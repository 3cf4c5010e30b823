"""Values that the type of a key allows but that do not fit into JSON or a shell command."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from eagle3.config.faults import NAMES, PLAIN_TEXT, quoted
from eagle3.config.section import LARGEST, Section

DEEPEST = 64  # levels of nesting; a YAML alias can make it endless


def odd_values(key: str, value: Any, depth: int = 0) -> Iterator[str]:
    """A sentence for every such value in `value`, the value of `key`."""
    if depth > DEEPEST:
        yield f"{'.'.join(key.split('.')[:3])} is nested too deeply"
    elif isinstance(value, Section):
        for name, inner in value:
            yield from odd_values(f"{key}.{name}".lstrip("."), inner, depth + 1)
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            path = f"{key}.{name}"
            if isinstance(name, str):
                yield from odd_values(path, name)
            else:
                yield f"{path}: {NAMES}"
            yield from odd_values(path, inner, depth + 1)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from odd_values(f"{key}.{number}", inner, depth + 1)
    elif (rule := _broken_rule(value)) is not None:
        yield f"{key} is {quoted(value)}{rule}"


def _broken_rule(value: Any) -> str | None:
    """What is wrong with a scalar; None if nothing is."""
    if isinstance(value, str):
        odd = "\0" in value or any("\ud800" <= letter <= "\udfff" for letter in value)
        return f"; {PLAIN_TEXT}" if odd else None
    if isinstance(value, int):
        return f"; must be at most {LARGEST}" if abs(value) > LARGEST else None
    if isinstance(value, float):
        return None if math.isfinite(value) else "; must be a finite number"
    if value is None:
        return None
    return f", to YAML a {type(value).__name__}: quote it if it is text"
