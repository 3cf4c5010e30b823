"""Snakemake's benchmark files of a run: time and memory of each finished job."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def measured_jobs(folder: Path, rule: str = "*") -> Iterator[tuple[str, dict[str, float]]]:
    """The rule of each job, and its measurements: seconds `s`, `cpu_time`, `max_rss`."""
    for path in sorted([*folder.glob(f"{rule}.tsv"), *folder.glob(f"{rule}/**/*.tsv")]):
        name = path.relative_to(folder).parts[0].removesuffix(".tsv")
        with open(path, encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file, delimiter="\t"):
                figures = {}
                for column, text in row.items():
                    # NA, if the job was too short to measure; a row may be cut off
                    with suppress(ValueError, TypeError):
                        figures[column] = float(text)
                yield name, figures
