"""`eagle3 status --watch`: how far capture and training are, until the report is written."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from tqdm import tqdm

from eagle3.cli.parts import RuleProgress, parts_of, score_inside
from eagle3.run import Run

NAMES = {
    "hidden_states": "hidden states",
    "import_states": "hidden states",
    "train_stage": "training",
}


def follow(run: Run, base: Path, every: float = 2.0) -> None:
    """Show bars on a terminal, or a line for each change elsewhere, until the run is finished.

    `every`: seconds between two looks at the files.
    """
    bars: dict[str, tqdm] = {}
    reported = ""
    while True:
        parts = parts_of(run, base)
        # training is counted in steps as soon as the schedule is there
        watched = [part for part in parts if part.name in NAMES and part.unit != "stages"]
        score = score_inside(run, base)
        note = str(score) if score else ""
        if sys.stderr.isatty():
            show(watched, note, bars)
        else:
            counts = [f"{NAMES[p.name]} {p.done}/{p.total} {p.unit}" for p in watched]
            line = ", ".join([*counts, note] if note else counts)
            if line != reported:
                print(line, flush=True)
            reported = line
        if all(part.finished for part in parts):
            break
        time.sleep(every)
    for bar in bars.values():
        bar.close()


def show(parts: list[RuleProgress], note: str, bars: dict[str, tqdm]) -> None:
    """Update a bar for each part; tqdm estimates the time left from the pace while watching."""
    for position, part in enumerate(parts):
        if part.name not in bars:
            bars[part.name] = tqdm(
                desc=f"{NAMES[part.name]:<13}",
                total=part.total,
                initial=part.done,
                unit=f" {part.unit}",
                position=position,
                dynamic_ncols=True,
            )
        bars[part.name].update(part.done - bars[part.name].n)
        if part.unit == "steps":
            bars[part.name].set_postfix_str(note, refresh=False)
        bars[part.name].refresh()
