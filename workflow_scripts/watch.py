"""Watch a run that is under way: bars with the time left, until its report is written.

python -m workflow_scripts.watch results/demo
"""

from __future__ import annotations

import sys
import time
from argparse import ArgumentParser
from pathlib import Path

from tqdm import tqdm

from eagle3.report.watch import Part, parts_of
from workflow_scripts import ending


def main() -> None:
    args = ArgumentParser(description=__doc__)
    args.add_argument("folder", type=Path, help="results/<run>")
    args.add_argument("--every", type=float, default=2.0, help="seconds between two updates")
    given = args.parse_args()
    bars: dict[str, tqdm] = {}
    told: list[Part] = []
    while True:
        finished = (given.folder / "report.html").is_file()
        parts = parts_of(given.folder)
        if sys.stderr.isatty():
            show(parts, bars)
        elif parts != told:
            print(", ".join(f"{p.name} {p.done}/{p.total} {p.unit}" for p in parts), flush=True)
            told = parts
        if finished and all(part.done >= part.total for part in parts):
            break
        time.sleep(given.every)
    for bar in bars.values():
        bar.close()


def show(parts: list[Part], bars: dict[str, tqdm]) -> None:
    """A bar for each part; the time left follows from what was seen while watching."""
    for place, part in enumerate(parts):
        if part.name not in bars:
            bars[part.name] = tqdm(
                desc=f"{part.name:<13}",
                total=part.total,
                initial=part.done,
                unit=f" {part.unit}",
                position=place,
                dynamic_ncols=True,
            )
        bars[part.name].update(part.done - bars[part.name].n)
        bars[part.name].refresh()


if __name__ == "__main__":
    ending.run(main)
