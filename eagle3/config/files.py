"""Reads files of a configuration and merges them as Snakemake does with several --configfile."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from eagle3.config.doubled_keys import check_doubled_keys
from eagle3.errors import UserError, first_line


def read_files(paths: Iterable[Path | str]) -> dict[str, Any]:
    """The values of the files, not validated: later files take precedence, key by key.

    Raises UserError for a file that is missing, is not YAML, is not a mapping, or has a key twice.
    """
    whole: dict[str, Any] = {}
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
        whole = laid_over(whole, values)
    return whole


def laid_over(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `change`, merged key by key."""
    merged = dict(base)
    for key, value in change.items():
        deep = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = laid_over(merged[key], value) if deep else value
    return merged
