"""A configuration as YAML for people: keys in sections, with a comment after each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import Any

import yaml

from eagle3.config.configuration import Config
from eagle3.errors import UserError

WIDTH, COLUMN = 100, 34  # of a line, and the column where comments begin


@dataclass(frozen=True)
class Line:
    """A key of the configuration, its value, and the reason for the value."""

    key: str  # such as train.learning_rate
    value: Any
    remark: str = ""


def values_of(lines: Iterable[Line]) -> dict[str, Any]:
    """The lines as nested mappings, as a YAML reader returns them."""
    nested: dict[str, Any] = {}
    for line in lines:
        *sections, name = line.key.split(".")
        section = nested
        for part in sections:
            section = section.setdefault(part, {})
        section[name] = line.value
    return nested


def text_of(head: Sequence[str], lines: Sequence[Line], tail: Sequence[str] = ()) -> str:
    """The file: `head` as comments, the sections in the order of `Config`, `tail` as comments."""
    remarks = {line.key: line.remark for line in lines}
    values = values_of(lines)
    order = [name for name in Config.model_fields if name in values]
    rows = [row for paragraph in head for row in commented(paragraph)]
    rows += ["", *_section({name: values[name] for name in order}, remarks, "")]
    if tail:
        rows += ["", *(row for paragraph in tail for row in commented(paragraph))]
    return "\n".join(rows) + "\n"


def commented(paragraph: str) -> list[str]:
    """A paragraph as comment lines; one that begins with spaces is a command and is not wrapped."""
    if paragraph.startswith(" "):
        return [f"#{paragraph}"]
    wrapped = wrap(paragraph, WIDTH - 2, break_long_words=False, break_on_hyphens=False)
    return [f"# {row}" for row in wrapped] or ["#"]


def _section(values: Mapping[str, Any], remarks: Mapping[str, str], prefix: str) -> list[str]:
    rows = []
    indent = "  " * prefix.count(".")
    for name, value in values.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and key not in remarks:
            rows += [f"{indent}{name}:", *_section(value, remarks, f"{key}.")]
            continue
        entry, remark = f"{indent}{name}: {scalar(value)}", remarks[key]
        row = f"{entry:<{COLUMN - 2}}  # {remark}" if remark else entry
        if len(row) > WIDTH:  # put the comment above the line
            rows += [f"{indent}{line}" for line in commented(remark)]
            row = entry
        rows.append(row)
    return rows


def scalar(value: Any) -> str:
    """A value on one line of YAML."""
    text = yaml.safe_dump(
        value, default_flow_style=True, sort_keys=False, width=10**6, allow_unicode=True
    )
    return text.removesuffix("\n").removesuffix("\n...")


def write_new(path: Path, text: str) -> None:
    """Write a new file. Raises UserError if it exists."""
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UserError(
            f"{path} already exists and was not changed; choose another name with --out"
        ) from None
