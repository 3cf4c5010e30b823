"""Words that run jobs: each is a rule of the workflow, with everything that it needs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from eagle3.cli import call
from eagle3.errors import UserError
from eagle3.workflow.project import project_root

Function = TypeVar("Function", bound=Callable[..., Any])
REST = "Options behind -- go to Snakemake as they are: eagle3 {} -c my.yaml -- --keep-going"


def options(function: Function) -> Function:
    """The options of every word that runs jobs."""
    for decorate in reversed(
        (
            click.option(
                "-c",
                "--configfile",
                "configfiles",
                multiple=True,
                type=click.Path(exists=True, dir_okay=False),
                help="What differs from the defaults; several are laid over each other. "
                "Without one the embedded demo runs.",
            ),
            click.option("--preset", help="A configuration of the project, below your own."),
            click.option("--cores", metavar="N", help="CPU cores at most; by default all."),
            click.option(
                "--profile", metavar="NAME", help="Snakemake's profile, such as slurm, or a folder."
            ),
            click.option("-n", "--dry-run", is_flag=True, help="Say what would run, and why."),
            click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[-- OPTIONS]"),
        )
    ):
        function = decorate(function)
    return function


def run(
    target: str,
    configfiles: Sequence[str],
    preset: str | None,
    cores: str | None,
    profile: str | None,
    dry_run: bool,
    words: Sequence[str],
) -> int:
    """Call Snakemake for a rule."""
    if words and not words[0].startswith("-"):
        raise click.UsageError(
            f"unexpected {words[0]!r}; a configuration is given by --configfile, options of "
            "Snakemake behind --"
        )
    files = _files(preset, configfiles)
    if not files and "--configfile" not in words:
        click.echo("no --configfile: this is the embedded demo, run `demo`", err=True)
    return call.snakemake(target, files, cores, profile, dry_run, words)


def _files(preset: str | None, configfiles: Sequence[str]) -> list[str]:
    """Files of the configuration in the order in which they are laid over each other."""
    return [*([preset_file(preset)] if preset else []), *configfiles]


def preset_file(name: str) -> str:
    """Path of a preset. Raises UserError if there is none of that name."""
    folder = project_root() / "presets"
    path = folder / f"{name}.yaml"
    if not path.is_file():
        names = sorted(path.stem for path in folder.glob("*.yaml"))
        raise UserError(f"--preset: there is no {name!r}, only {', '.join(names)}")
    return str(path)


@click.command(short_help="What a run will take: disk, time.", epilog=REST.format("plan"))
@options
def plan(**arguments: Any) -> int:
    """What a run will take: disk, arithmetic, time. Tokens are made, no state is captured."""
    began = time.time()
    code = run("plan", **arguments)
    if code == 0 and not arguments["dry_run"]:
        _show_plan(Path(f"results/{run_name(arguments)}/plan.json"), began)
    return code


def run_name(arguments: dict[str, Any]) -> str:
    """The run that the configuration files name; the demo's without one."""
    from eagle3.config.files import read_files

    return str(read_files(_files(arguments["preset"], arguments["configfiles"])).get("run", "demo"))


def _show_plan(path: Path, began: float) -> None:
    """A plan that was there before; a job that makes one has printed it."""
    if path.is_file() and path.stat().st_mtime < began:
        from eagle3.report.plan import plan_table

        click.echo(plan_table(json.loads(path.read_text(encoding="utf-8"))))


@click.command(short_help="Everything, up to a measured draft.", epilog=REST.format("train"))
@options
def train(**arguments: Any) -> int:
    """Everything: a trained, exported and measured draft, and the report about it."""
    return run("train", **arguments)


@click.command(
    short_help="Tokens, masks, vocabulary, schedule.", epilog=REST.format("prepare-data")
)
@options
def prepare_data(**arguments: Any) -> int:
    """Tokens and masks of every conversation, the draft's vocabulary, the schedule."""
    return run("prepare_data", **arguments)


@click.command(short_help="Hidden states of the target.", epilog=REST.format("capture"))
@options
def capture(**arguments: Any) -> int:
    """Hidden states of the target, for every shard."""
    return run("capture", **arguments)


@click.command(short_help="The draft, in every format.", epilog=REST.format("export"))
@options
def export(**arguments: Any) -> int:
    """The trained draft, in every format of the configuration."""
    return run("drafts", **arguments)


@click.command(short_help="Acceptance of the draft, measured.", epilog=REST.format("evaluate"))
@options
def evaluate(**arguments: Any) -> int:
    """Acceptance of the exported draft, by decoding prompts with it and without it."""
    return run("evaluate", **arguments)
