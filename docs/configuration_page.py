"""Writes docs/configuration.md from the models:

python -m docs.configuration_page > docs/configuration.md
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen, MultipleOf
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from eagle3.config.configuration import Config
from eagle3.config.faults import type_words
from eagle3.config.section import alternatives, is_section, item_type

HEAD = """# Configuration

This page is generated from `eagle3/config/` by `python -m docs.configuration_page`.

Only `run` has no default. A configuration names what differs from the defaults below; a section may
be omitted or empty. Except where a string is expected, `"1e-4"`, `"true"` and `"null"` are read as
the number, the boolean and null. Unknown keys and invalid values are reported before any job
starts, each in one sentence.
"""
BOUNDS = {Ge: ("≥", "ge"), Gt: (">", "gt"), Le: ("≤", "le"), Lt: ("<", "lt")}


def page() -> str:
    """The page as Markdown."""
    return "\n".join([HEAD, *_section("", Config)])


def _section(name: str, model: type[BaseModel]) -> Iterator[str]:
    """Heading and table of a section, then those of the sections and entries inside it."""
    if name:
        yield f"## {name}\n\n{_linked(' '.join((model.__doc__ or '').split()))}\n"
    rows, inner = [], []
    for key, field in model.model_fields.items():
        path = f"{name}.{key}".lstrip(".")
        section = next(filter(is_section, alternatives(field.annotation)), None)
        entry = next(
            filter(is_section, alternatives(item_type(alternatives(field.annotation)))), None
        )
        if section is not None:
            inner.append((path, section))
            continue
        rows.append(_row(key, field))
        if entry is not None:
            inner.append((f"Entries of {path}", entry))
    if rows:
        yield "| Key | Value | Default | Meaning |\n|---|---|---|---|"
        yield from rows
        yield ""
    for path, section in inner:
        yield from _section(path, section)


def _row(key: str, field: FieldInfo) -> str:
    cells = (f"`{key}`", allowed(field), _default(field), _linked(field.description or ""))
    return f"| {' | '.join(cells)} |"


def _linked(text: str) -> str:
    """Pages of the documentation as links, from the folder that they are all in."""
    return re.sub(r"docs/([a-z_]+\.md)", r"[\g<0>](\1)", text)


def allowed(field: FieldInfo) -> str:
    """Type and range of a key in words: `integer ≥ 1 or null`."""
    return _words(field.annotation, field.metadata)


def _words(annotation: Any, limits: list[Any]) -> str:
    if get_origin(annotation) is Annotated:
        inner, *more = get_args(annotation)
        return _words(inner, [*limits, *_flat(more)])
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(annotation))
    kinds = alternatives(annotation)
    if len(kinds) > 1:
        return " or ".join(_words(kind, limits) for kind in get_args(annotation))
    if annotation is NoneType:
        return "null"
    item = item_type(kinds)
    lengths = {type(limit): limit for limit in limits}
    if item is not None:
        least, most = lengths.get(MinLen), lengths.get(MaxLen)
        count = " one or more" if least else ""
        if most:
            bounds = {least.min_length, most.max_length} if least else {most.max_length}
            count = " " + " to ".join(map(str, sorted(bounds)))
        return f"list of{count}: {_words(item, [])}"
    return type_words(annotation) + _range(limits)


def _flat(limits: list[Any]) -> list[Any]:
    """Pydantic's `Field` holds several limits."""
    parts: list[Any] = []
    for limit in limits:
        parts += limit.metadata if isinstance(limit, FieldInfo) else [limit]
    return parts


def _range(limits: list[Any]) -> str:
    words = []
    for limit in limits:
        if type(limit) in BOUNDS:
            sign, name = BOUNDS[type(limit)]
            words.append(f" {sign} {getattr(limit, name):g}")
        elif isinstance(limit, MultipleOf):
            words.append(f" a multiple of {limit.multiple_of}")
    return ",".join(words)


def _default(field: FieldInfo) -> str:
    value = field.default
    if value is PydanticUndefined:
        return "none: it must be given"
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


if __name__ == "__main__":
    sys.stdout.write(page())
