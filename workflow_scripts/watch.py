"""Watch a run: progress bars with the time left, until its report is written.

python -m workflow_scripts.watch results/demo
"""

from __future__ import annotations

import sys
import time
from argparse import ArgumentParser
from pathlib import Path

from tqdm import tqdm

from eagle3.report.watch import RunPart, parts_of
from workflow_scripts import ending


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="results/<run>")
    parser.add_argument("--every", type=float, default=2.0, help="seconds between two updates")
    args = parser.parse_args()
    bars: dict[str, tqdm] = {}
    reported: list[RunPart] = []
    while True:
        finished = (args.folder / "report.html").is_file()
        parts = parts_of(args.folder)
        if sys.stderr.isatty():
            show(parts, bars)
        elif parts != reported:
            counts = (f"{p.name} {p.done}/{p.total} {p.unit}" for p in parts)
            print(", ".join([*counts, *(p.note for p in parts if p.note)]), flush=True)
            reported = parts
        if finished and all(part.done >= part.total for part in parts):
            break
        time.sleep(args.every)
    for bar in bars.values():
        bar.close()


def show(parts: list[RunPart], bars: dict[str, tqdm]) -> None:
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
        bars[part.name].set_postfix_str(part.note, refresh=False)
        bars[part.name].refresh()


if __name__ == "__main__":
    ending.run(main)
