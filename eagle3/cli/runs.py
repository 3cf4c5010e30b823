"""`eagle3 runs`: list the runs of the working directory, compare two of them, remove one."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eagle3.cli.places import base_of, run_folder, run_folders
from eagle3.errors import UserError

if TYPE_CHECKING:
    from eagle3.run import Run


@click.group(short_help="List runs, compare two, remove one.")
def runs() -> None:
    """List the runs of this folder, compare two of them, or remove one."""


@runs.command("list", short_help="List every run here.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_runs(as_json: bool) -> None:
    """List every run here: when it was planned, what is next, its acceptance length."""

    rows = [_row(folder) for folder in run_folders()]
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return
    if not rows:
        click.echo("no run here: runs are in results/ of the working directory")
        return
    table = [["run", "planned", "next", "acceptance length", "target"]]
    table += [[str(value) for value in row.values()] for row in rows]
    click.echo("\n".join(aligned(table)))


def _row(folder: Path) -> dict[str, str]:
    """The columns of a run; one that cannot be loaded is marked as unreadable."""
    from eagle3.cli.parts import parts_of
    from eagle3.run import load_run

    file = folder / "run.json"
    planned = time.strftime("%Y-%m-%d %H:%M", time.localtime(file.stat().st_mtime))
    row = {"run": folder.name, "planned": planned}
    try:
        run = load_run(folder)
    except UserError:
        return {**row, "next": "unreadable", "acceptance_length": "", "target": ""}
    parts = parts_of(run, base_of(folder))
    following = next((part.name for part in parts if not part.finished), "finished")
    length = figures(run, folder).get("acceptance length", "")
    return {**row, "next": following, "acceptance_length": length, "target": run.target}


@runs.command("compare", short_help="Compare two runs: configuration and results.")
@click.argument("first")
@click.argument("second")
def compare(first: str, second: str) -> None:
    """Compare the configurations of the runs FIRST and SECOND, and their results."""
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
        click.echo("\n".join(["configuration", *aligned([names, *rows])]))
    else:
        click.echo("the configurations are the same")
    left, right = (figures(run, folder) for run, folder in zip((one, two), folders, strict=True))
    keys = list(dict.fromkeys([*left, *right]))
    if keys:
        result_rows = [[key, left.get(key, "-"), right.get(key, "-")] for key in keys]
        click.echo("\n".join(["", "results", *aligned([names, *result_rows])]))


def _contents(one: Run, two: Run) -> dict[str, tuple[str, str]]:
    """Digests of files outside the run, whose content may differ under the same name."""
    kinds = {
        "dataset.source": "source_digest",
        "target.model": "weights_digest",
        "evaluation.prompts": "prompts_digest",
        "train.warm_start": "warm_start_digest",
    }
    digests = {
        name: (_short(getattr(one.external, key)), _short(getattr(two.external, key)))
        for name, key in kinds.items()
    }
    states = [run.external.states.digest if run.external.states else "" for run in (one, two)]
    return digests | {"hidden_states.source": (states[0], states[1])}


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 40 else f"{text[:39]}…"


def differences(
    one: Mapping[str, Any], two: Mapping[str, Any], prefix: str = ""
) -> dict[str, tuple[Any, Any]]:
    """Both values of every key that differs, by dotted name."""
    changed: dict[str, tuple[Any, Any]] = {}
    for key in dict.fromkeys([*one, *two]):
        left, right = one.get(key), two.get(key)
        if isinstance(left, dict) and isinstance(right, dict):
            changed |= differences(left, right, f"{prefix}{key}.")
        elif left != right:
            changed[f"{prefix}{key}"] = left, right
    return changed


def figures(run: Run, folder: Path) -> dict[str, str]:
    """The figures of a run that are available so far, by name."""
    from eagle3.report.job_times import measured_jobs
    from eagle3.report.plan import size_text

    base, by_name = base_of(folder), {}
    acceptance = _read(base / run.paths.acceptance)
    if acceptance:
        low, high = acceptance["acceptance_length_ci95"]
        by_name["acceptance length"] = (
            f"{acceptance['acceptance_length']:.2f} ({low:.2f}-{high:.2f})"
        )
        by_name["target passes saved"] = f"{acceptance['target_passes_saved']:.0%}"
    choice = _read(base / run.paths.choice)
    if choice:
        best = next(one for one in choice["stages"] if one["stage"] == choice["stage"])
        by_name["held-out length"] = f"{best['acceptance_length']:.2f}"
        by_name["best stage"] = f"{choice['stage']} of {run.stages.count}"
    plan = _read(base / run.paths.plan)
    if plan:
        by_name["optimiser steps"] = str(plan["steps"])
        by_name["training tokens"] = f"{plan['tokens']:,}"
        by_name["draft parameters"] = f"{plan['draft_parameters']:,}"
        by_name["hidden states"] = size_text(plan["bytes_states"])
    jobs = measured_jobs(base / run.paths.benchmarks)
    seconds = sum(figures.get("s", 0.0) for _, figures in jobs)
    if seconds:
        by_name["time of all jobs"] = str(timedelta(seconds=round(seconds)))
    return by_name


def _read(path: Path) -> dict[str, Any]:
    """A JSON file of figures; empty if there is no file."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The rows of a table as aligned lines."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  "
        + "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


@runs.command("remove", short_help="Remove everything of one run.")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Remove without asking.")
def remove(name: str, yes: bool) -> None:
    """Remove the run NAME: everything that belongs to it, and nothing that other runs share."""
    from eagle3.cli.removal import belongings, users
    from eagle3.cli.status import UNLOCK, busy
    from eagle3.report.plan import size_text

    folder = run_folder(name)
    paths = belongings(folder)
    if busy(Path(), str(paths.folder)):
        raise UserError(
            f"Snakemake is working on {paths.folder}: stop it first, or call `{UNLOCK}` if it was "
            "killed"
        )
    readers = users(folder, run_folders())
    if readers:
        raise UserError(
            f"{paths.folder} has files that other runs read: remove {', '.join(readers)} first"
        )
    objects = f", objects in {paths.objects}" if paths.objects else ""
    description = f"{paths.folder} ({size_text(paths.size)}{objects})"
    if not yes and not click.confirm(f"Remove {description} permanently?"):
        click.echo("nothing was removed")
        return
    paths.remove()
    click.echo(f"removed {description}")
