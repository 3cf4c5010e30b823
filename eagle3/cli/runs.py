"""`eagle3 runs`: a list of the runs in the working directory, two of them side by side, and the
removal of one."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eagle3.errors import UserError

if TYPE_CHECKING:
    from eagle3.run import Run


@click.group(short_help="List runs, compare two, remove one.")
def runs() -> None:
    """List the runs, compare two, remove one."""


@runs.command("list")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def list_runs(as_json: bool) -> None:
    """Every run here: when it was planned, how far it is, what it has measured."""
    from eagle3.cli.places import run_folders

    rows = [_row(folder) for folder in run_folders()]
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return
    if not rows:
        click.echo("no run here: runs lie in results/ of the working directory")
        return
    table = [["run", "planned", "next", "acceptance length", "target"]]
    table += [[str(value) for value in row.values()] for row in rows]
    click.echo("\n".join(aligned(table)))


def _row(folder: Path) -> dict[str, str]:
    """What the list says of a run; one that cannot be read is named."""
    from eagle3.cli.parts import parts_of
    from eagle3.run import load_run

    file = folder / "run.json"
    planned = time.strftime("%Y-%m-%d %H:%M", time.localtime(file.stat().st_mtime))
    row = {"run": folder.name, "planned": planned}
    try:
        run = load_run(folder)
    except UserError:
        return {**row, "next": "unreadable", "acceptance_length": "", "target": ""}
    parts = parts_of(run, folder.absolute().parents[1])
    following = next((part.name for part in parts if not part.finished), "finished")
    length = figures(run, folder).get("acceptance length", "")
    return {**row, "next": following, "acceptance_length": length, "target": run.target}


@runs.command("compare")
@click.argument("first")
@click.argument("second")
def compare(first: str, second: str) -> None:
    """What FIRST and SECOND were asked differently, and what came of each."""
    from eagle3.cli.places import run_folder
    from eagle3.run import load_run

    folders = run_folder(first), run_folder(second)
    one, two = map(load_run, folders)
    names = ["", folders[0].name, folders[1].name]
    changed = differences(one.config.to_dict(), two.config.to_dict())
    rows = [[key, *map(_short, values)] for key, values in changed.items() if key != "run"]
    rows += [
        [f"{name} (content)", *values]
        for name, values in _contents(one, two).items()
        if values[0] != values[1]
    ]
    if rows:
        click.echo("\n".join(["asked for", *aligned([names, *rows])]))
    else:
        click.echo("asked for the same")
    left, right = (figures(run, folder) for run, folder in zip((one, two), folders, strict=True))
    keys = list(dict.fromkeys([*left, *right]))
    if keys:
        came = [[key, left.get(key, "-"), right.get(key, "-")] for key in keys]
        click.echo("\n".join(["", "came of it", *aligned([names, *came])]))


def _contents(one: Run, two: Run) -> dict[str, tuple[str, str]]:
    """Digests of what lies outside, which may differ under one name."""
    kinds = {
        "dataset.source": "source_digest",
        "target.model": "weights_digest",
        "evaluation.prompts": "prompts_digest",
        "train.warm_start": "warm_start_digest",
    }
    return {
        name: (_short(getattr(one.external, key)), _short(getattr(two.external, key)))
        for name, key in kinds.items()
    }


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 40 else f"{text[:39]}…"


def differences(
    one: Mapping[str, Any], two: Mapping[str, Any], above: str = ""
) -> dict[str, tuple[Any, Any]]:
    """Both values of every key that differs, by its dotted name."""
    changed: dict[str, tuple[Any, Any]] = {}
    for key in dict.fromkeys([*one, *two]):
        left, right = one.get(key), two.get(key)
        if isinstance(left, dict) and isinstance(right, dict):
            changed |= differences(left, right, f"{above}{key}.")
        elif left != right:
            changed[f"{above}{key}"] = left, right
    return changed


def figures(run: Run, folder: Path) -> dict[str, str]:
    """What a run has measured so far, by name."""
    from eagle3.cli.parts import benchmark_seconds
    from eagle3.report.plan import size_text

    base, by_name = folder.absolute().parents[1], {}
    accepted = _read(base / run.paths.acceptance)
    if accepted:
        low, high = accepted["acceptance_length_ci95"]
        by_name["acceptance length"] = f"{accepted['acceptance_length']:.2f} ({low:.2f}-{high:.2f})"
        by_name["target passes saved"] = f"{accepted['target_passes_saved']:.0%}"
    chosen = _read(base / run.paths.choice)
    if chosen:
        best = next(one for one in chosen["stages"] if one["stage"] == chosen["stage"])
        by_name["held-out length"] = f"{best['acceptance_length']:.2f}"
        by_name["best stage"] = f"{chosen['stage']} of {run.stages.count}"
    plan = _read(base / run.paths.plan)
    if plan:
        by_name["optimiser steps"] = str(plan["steps"])
        by_name["training tokens"] = f"{plan['tokens']:,}"
        by_name["draft parameters"] = f"{plan['draft_parameters']:,}"
        by_name["hidden states"] = size_text(plan["bytes_states"])
    seconds = sum(benchmark_seconds(base / run.paths.benchmarks))
    if seconds:
        by_name["time of all jobs"] = str(timedelta(seconds=round(seconds)))
    return by_name


def _read(path: Path) -> dict[str, Any]:
    """A file of figures; empty if it is not there."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  "
        + "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


@runs.command("remove")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
def remove(name: str, yes: bool) -> None:
    """Remove the run NAME: all that belongs to it, and nothing that another run shares."""
    from eagle3.cli.places import run_folder, run_folders
    from eagle3.cli.removal import belongings, users
    from eagle3.cli.status import busy
    from eagle3.report.plan import size_text

    folder = run_folder(name)
    paths = belongings(folder)
    if busy(Path(), str(paths.folder)):
        raise UserError(
            f"Snakemake is at work on {paths.folder}: stop it first, or `snakemake --unlock` if it "
            "was killed"
        )
    reading = users(folder, run_folders())
    if reading:
        raise UserError(
            f"{paths.folder} has files that {', '.join(reading)} reads: remove that run first"
        )
    also = f", objects below {paths.objects}" if paths.objects else ""
    what = f"{paths.folder} ({size_text(paths.size)}{also})"
    if not yes and not click.confirm(f"Remove {what} for good?"):
        click.echo("nothing was removed")
        return
    paths.remove()
    click.echo(f"removed {what}")
