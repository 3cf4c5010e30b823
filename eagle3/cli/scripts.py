"""Subcommands that call a script of the project for a run or a server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from eagle3.cli import call
from eagle3.cli.places import run_folder

PASS_ON = {"ignore_unknown_options": True, "help_option_names": []}


@click.command(
    context_settings=PASS_ON,
    options_metavar="[RUN] [OPTIONS]",
    short_help="Show supervised tokens in colour.",
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def masks(arguments: Sequence[str]) -> int:
    """Show the conversations of a run, with the supervised tokens in colour.

    RUN is a name or folder; --shard N selects a shard, by default the first. All other options are
    those of workflow_scripts.show_masks.
    """
    first = arguments[0] if arguments else "-"
    if not first.startswith("-") and not first.endswith(".safetensors"):
        from eagle3.run import load_run

        folder = run_folder(first)
        run, rest = load_run(folder), list(arguments[1:])
        shard = _taken(rest, "--shard")
        path = folder.parents[1] / run.paths.tokens("train", shard)
        place = Path(run.target)
        inside = folder.parents[1] / place  # the demo's target is in its own folder
        target = str(inside) if not run.external.target and inside.is_dir() else run.target
        trusted = ["--trust-remote-code"] if run.config.target.trust_remote_code else []
        arguments = [str(path), "--target", target, *trusted, *rest]
    return call.call("workflow_scripts.show_masks", arguments)


def _taken(arguments: list[str], option: str) -> int:
    """The number after an option, 0 without it. Both are removed from `arguments`."""
    if option not in arguments:
        return 0
    place = arguments.index(option)
    number = "".join(arguments[place + 1 : place + 2])
    if not number.isdigit():
        raise click.UsageError(f"{option} needs a number")
    del arguments[place : place + 2]
    return int(number)


@click.command(
    context_settings=PASS_ON,
    options_metavar="[OPTIONS]",
    short_help="Measure acceptance on a running server.",
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def serve_check(arguments: Sequence[str]) -> int:
    """Measure the acceptance length on a running SGLang or vLLM server.

    The options are those of workflow_scripts.measure_server: --url, --target, --prompts.
    """
    return call.call("workflow_scripts.measure_server", arguments)
