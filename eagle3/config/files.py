"""Reads files of a configuration and merges them as Snakemake does with several --configfile."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from eagle3.errors import UserError, first_line


def read_files(paths: Iterable[Path | str]) -> dict[str, Any]:
    """The values of the files, not validated: later files take precedence, key by key.

    Raises UserError for a file that is missing, is not YAML, is not a mapping, or has a key twice.
    """
    merged: dict[str, Any] = {}
    for path in map(Path, paths):
        try:
            check_doubled_keys(path)
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as fault:
            raise UserError(f"config: {path}: {fault.strerror}") from None
        except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as fault:
            raise UserError(f"config: {path} is not YAML ({first_line(fault)})") from None
        if values is None:
            continue
        if not isinstance(values, dict):
            raise UserError(f"config: {path} must hold keys and values")
        merged = laid_over(merged, values)
    return merged


def laid_over(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `change`, merged key by key."""
    merged = dict(base)
    for key, value in change.items():
        deep = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = laid_over(merged[key], value) if deep else value
    return merged


def check_doubled_keys(path: Path) -> None:
    """Raise UserError naming every duplicate key of a configuration file: a YAML reader silently
    takes the last one.

    A file that is not YAML passes: loading it reports that.
    """
    try:
        root = yaml.compose(path.read_bytes(), Loader=yaml.SafeLoader)
    except RecursionError:
        raise UserError(f"config: {path} is nested too deeply") from None
    except yaml.YAMLError:
        return
    faults: list[str] = []
    seen: set[int] = set()  # an alias is the node it refers to, which may contain it
    pending = [("", root)]
    while pending:
        prefix, node = pending.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            pending += [(f"{prefix}{number}.", item) for number, item in enumerate(node.value)]
        elif isinstance(node, yaml.MappingNode):
            lines: dict[str, int] = {}
            for key, value in node.value:
                name, line = str(key.value), key.start_mark.line + 1
                if name in lines:
                    faults.append(f"{prefix}{name} twice, in lines {lines[name]} and {line}")
                lines[name] = line
                pending.append((f"{prefix}{name}.", value))
    if faults:
        raise UserError(f"config: {path} has {'; '.join(sorted(faults))}: keep one of them")
