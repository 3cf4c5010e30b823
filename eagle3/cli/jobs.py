"""Subcommands that run jobs: each calls one rule of the workflow, with everything it needs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from eagle3.cli import call
from eagle3.cli.overrides import overrides_file
from eagle3.cli.presets import preset_file
from eagle3.config.files import read_files

Function = TypeVar("Function", bound=Callable[..., Any])
# options of Snakemake that select another run or folder than the command line does
ELSEWHERE = {"--configfile", "--configfiles", "--config", "-C", "--directory", "-d"}
EXTRA = "Options after -- go to Snakemake: eagle3 {} -c my.yaml -- --keep-going"


def options(function: Function) -> Function:
    """The options of every subcommand that runs jobs."""
    for decorate in reversed(
        (
            click.option(
                "-c",
                "--configfile",
                "configfiles",
                multiple=True,
                type=click.Path(exists=True, dir_okay=False),
                help="What differs from the defaults. If several are given, later ones take "
                "precedence.",
            ),
            click.option(
                "--preset", help="A configuration of the project; your own files take precedence."
            ),
            click.option(
                "--demo", is_flag=True, help="The embedded demo, which trains its own tiny target."
            ),
            click.option(
                "--set",
                "settings",
                multiple=True,
                metavar="KEY=VALUE",
                help="One value, over all files: --set train.learning_rate=2e-4",
            ),
            click.option("--cores", metavar="N", help="CPU cores to use; all by default."),
            click.option(
                "--profile",
                metavar="NAME",
                help="A profile of Snakemake: a name such as slurm, or a folder.",
            ),
            click.option("-n", "--dry-run", is_flag=True, help="Print what would run, and why."),
            click.argument("extra", nargs=-1, type=click.UNPROCESSED, metavar="[-- OPTIONS]"),
        )
    ):
        function = decorate(function)
    return function


def run(
    target: str,
    configfiles: Sequence[str],
    preset: str | None,
    demo: bool,
    settings: Sequence[str],
    cores: str | None,
    profile: str | None,
    dry_run: bool,
    extra: Sequence[str],
) -> int:
    """Call Snakemake for a rule. Raises UsageError unless exactly one run is meant."""
    if extra and not extra[0].startswith("-"):
        raise click.UsageError(
            f"unexpected {extra[0]!r}; name a configuration with -c FILE, change a value of it "
            "with --set KEY=VALUE, and put options of Snakemake after --"
        )
    files = _files(preset, configfiles, settings)
    if demo and files:
        raise click.UsageError("--demo takes no configuration")
    has_configfile = any(word.split("=")[0] in ("--configfile", "--configfiles") for word in extra)
    if files and has_configfile:
        raise click.UsageError(
            "Snakemake takes one list of configuration files: name those after -- with -c instead"
        )
    if not demo and not preset and not configfiles and not has_configfile:
        local_files = ", ".join(sorted(path.name for path in Path().glob("[!.]*.yaml"))[:5])
        raise click.UsageError(
            "name a configuration with -c FILE or --preset NAME, or run the embedded demo with "
            "--demo" + (f" (files here: {local_files})" if local_files else "")
        )
    read_files(configfiles)  # its errors name the file, which Snakemake's do not
    arguments = call.snakemake_arguments(target, files, cores, profile, dry_run, extra)
    return call.call("snakemake", arguments)


def _files(preset: str | None, configfiles: Sequence[str], settings: Sequence[str]) -> list[str]:
    """The files of the configuration; later ones take precedence."""
    preset_files = [preset_file(preset)] if preset else []
    return [*preset_files, *configfiles, *([overrides_file(settings)] if settings else [])]


@click.command(short_help="Estimate what a run takes: disk, time.", epilog=EXTRA.format("plan"))
@options
def plan(**arguments: Any) -> int:
    """Estimate what a run takes: disk, FLOPs, time.

    Tokens are made for it; no hidden state is captured.
    """
    started = time.time()
    code = run("plan", **arguments)
    passed_on = {word.split("=")[0] for word in arguments["extra"]}
    if code == 0 and not arguments["dry_run"] and not passed_on & ELSEWHERE:
        _show_plan(Path(f"results/{run_name(arguments)}/plan.json"), started)
    return code


def run_name(arguments: dict[str, Any]) -> str:
    """The name of the run in the configuration files; `demo` without one."""
    files = _files(arguments["preset"], arguments["configfiles"], arguments["settings"])
    return str(read_files(files).get("run", "demo"))


def _show_plan(path: Path, started: float) -> None:
    """Print a plan that is older than this call; a job that writes a new one prints it itself."""
    if path.is_file() and path.stat().st_mtime < started:
        from eagle3.report.plan import plan_table

        click.echo(plan_table(json.loads(path.read_text(encoding="utf-8"))))


def _command(rule: str, name: str, summary: str, help_text: str) -> click.Command:
    """A subcommand that runs a rule of the workflow."""

    @click.command(name, short_help=summary, help=help_text, epilog=EXTRA.format(name))
    @options
    def command(**arguments: Any) -> int:
        return run(rule, **arguments)

    return command


train = _command(
    "train",
    "train",
    "Run everything, up to a measured draft.",
    "Run everything: a trained, exported and measured draft, and the report about it.",
)
prepare_data = _command(
    "prepare_data",
    "prepare-data",
    "Make tokens, masks, vocabulary, schedule.",
    "Make tokens and masks of every conversation, the draft's vocabulary and the schedule.",
)
capture = _command(
    "capture",
    "capture",
    "Capture hidden states of the target.",
    "Capture the target's hidden states for every shard.",
)
export = _command(
    "drafts",
    "export",
    "Export the draft in every format.",
    "Train the draft if necessary, and export it in every format of the configuration.",
)
evaluate = _command(
    "evaluate",
    "evaluate",
    "Measure the acceptance of the draft.",
    "Measure the acceptance of the exported draft: decode prompts with it and without it.",
)
