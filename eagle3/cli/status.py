"""`eagle3 status`: what is done of a run, what is next, and how much time is left."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eagle3.cli.places import base_of, newest_run, run_folder

if TYPE_CHECKING:
    from eagle3.cli.parts import RuleProgress

# works from any folder; `snakemake --unlock` finds the workflow only in a checkout
UNLOCK = "eagle3 train -c FILE -- --unlock"


@click.command(short_help="Show what is done, what is next, time left.")
@click.argument("run", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--watch", is_flag=True, help="Show progress bars until the report is written.")
def status(run: str | None, as_json: bool, watch: bool) -> int:
    """Show what is done of RUN, what is next, and the time left.

    RUN is a name or a folder; by default the run that was planned last. Times follow from finished
    jobs of the run, counted one after another, or else from the plan's estimate.
    """
    from eagle3.cli.parts import parts_of, score_inside
    from eagle3.run import load_run

    folder = run_folder(run) if run else newest_run()
    loaded = load_run(folder)
    base = base_of(folder)
    if watch:
        from eagle3.cli.follow import follow

        follow(loaded, base)
        return 0
    parts, score = parts_of(loaded, base), score_inside(loaded, base)
    if as_json:
        held_out = {"held_out": asdict(score) if score else None}
        click.echo(json.dumps(_as_json(loaded.config.run, parts) | held_out, indent=1))
        return 0
    click.echo(f"run {loaded.config.run} in {os.path.relpath(folder)}")
    data = f"dataset {_sources(loaded.external.sources)}"
    if loaded.imports:
        data = f"states of {loaded.states_from.kind} in {loaded.states_from.place}"
    click.echo(f"  target {loaded.target}, {data}")
    width = max(len(part.name) for part in parts)
    following = next((part for part in parts if not part.finished), None)
    for part in parts:
        sign = "done" if part.finished else "next" if part is following else "    "
        count = f"{part.done}/{part.total} {part.unit}" if part.total > 1 else ""
        click.echo(f"  {sign}  {part.name:<{width}}  {count:<16}{_time_left(part)}".rstrip())
    if score:
        click.echo(f"  {score}")
    if following is None:
        click.echo(f"finished: {loaded.paths.report}")
    elif busy(base, loaded.paths.out):
        click.echo(f"Snakemake is working on it (if it was killed: `{UNLOCK}`, then start again)")
    else:
        click.echo("Snakemake is not running; `eagle3 train` with the same configuration continues")
    return 0


def _sources(sources: tuple) -> str:
    return ", ".join(source.place for source in sources)


def _time_left(part: RuleProgress) -> str:
    if part.finished:
        return ""
    if part.seconds_left is None:
        return "time left unknown"
    from eagle3.report.plan import time_text

    source = "" if part.source == "measured" else f" ({part.source})"
    note = ", one after another" if part.unit == "shards" else ""
    return f"{time_text(part.seconds_left)} left{source}{note}"


def _as_json(name: str, parts: list[RuleProgress]) -> dict[str, Any]:
    following = next((part.name for part in parts if not part.finished), None)
    remaining = [part.seconds_left for part in parts if not part.finished]
    total = None if None in remaining else sum(second for second in remaining if second is not None)
    return {
        "run": name,
        "next": following,
        "seconds_left": total,
        "parts": [asdict(part) for part in parts],
    }


def busy(base: Path, out: str) -> bool:
    """Whether Snakemake has locked files of a run, in the working directory `base`."""
    for lock in (base / ".snakemake" / "locks").glob("*.lock"):
        try:
            locked = lock.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:  # Snakemake has just removed it
            continue
        if any(path.startswith(f"{out}/") for path in locked):
            return True
    return False
