"""Single values of a configuration from the command line, as one more file of it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import click
import yaml

from eagle3.config.files import laid_over
from eagle3.files.artifact import digest, write_text

FOLDER = Path(".snakemake") / "eagle3"  # of the working directory, as the files of runs


def overrides_file(settings: Sequence[str]) -> str:
    """Write `section.key=value` settings to a configuration file; later ones take precedence.

    Equal settings have the same file. Raises UsageError if one is not of that form.
    """
    values: dict[str, Any] = reduce(laid_over, map(_nested, settings), {})
    text = yaml.safe_dump(values)
    path = FOLDER / f"set-{digest(text)}.yaml"
    if not path.is_file():
        write_text(path, text)
    return str(path)


def _nested(setting: str) -> dict[str, Any]:
    """The mapping that a setting stands for."""
    key, equals, text = setting.partition("=")
    if not equals or not all(key.split(".")):
        raise click.UsageError(
            f"--set {setting!r} is not SECTION.KEY=VALUE, such as train.learning_rate=2e-4"
        )
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise click.UsageError(f"--set {key}: {text!r} is not a value of YAML") from None
    for name in reversed(key.split(".")):
        value = {name: value}
    return value
