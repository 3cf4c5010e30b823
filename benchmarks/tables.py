"""Common output of the benchmarks: the machine, a table for people, one JSON object for tools."""

from __future__ import annotations

import json
import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from eagle3.files.artifact import software_versions
from eagle3.parallel.processor import processor


def parser(description: str | None) -> ArgumentParser:
    """A parser with the option that every benchmark has."""
    result = ArgumentParser(description=description)
    result.add_argument("--json", type=Path, help="write one JSON object to this file")
    return result


def machine() -> dict[str, Any]:
    """The machine, versions and command of the benchmark."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "cpu": f"{os.cpu_count()} x {processor()}",
        "gpu": gpu,
        "threads": torch.get_num_threads(),
        "versions": software_versions(),
        "command": f"python -m benchmarks.{Path(sys.argv[0]).stem} {' '.join(sys.argv[1:])}",
    }


def show(title: str, rows: Sequence[Mapping[str, Any]], args: Namespace, **more: Any) -> None:
    """Print the rows as a table, and write them with `more` if a file was named."""
    host = machine()
    print(f"# {title}")
    print(f"# {host['cpu']}, GPU {host['gpu']}, {host['threads']} threads")
    print(f"# {host['versions']}")
    print(f"# {host['command']}")
    print(*lines(rows), sep="\n")
    if args.json:
        content = {"benchmark": title, "machine": host, "rows": list(rows), **more}
        args.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A table of the rows; one that lacks a figure has an empty cell there."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[_text(row.get(name, "")) for name in names] for row in rows]
    widths = [max(len(n), *(len(line[i]) for line in cells)) for i, n in enumerate(names)]
    return [
        "| "
        + " | ".join(text.ljust(width) for text, width in zip(line, widths, strict=True))
        + " |"
        for line in [names, ["-" * width for width in widths], *cells]
    ]


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
