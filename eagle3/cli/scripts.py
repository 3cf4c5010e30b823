"""Words that run a script of the project on a run or a server."""

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
    short_help="Show what is supervised, in colour.",
)
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def masks(words: Sequence[str]) -> int:
    """Show what of a run's conversations is supervised, in colour.

    RUN is a name or folder; --shard N takes another shard than the first. All other options are
    those of workflow_scripts.show_masks.
    """
    if words and not words[0].startswith("-") and not words[0].endswith(".safetensors"):
        from eagle3.run import load_run

        folder = run_folder(words[0])
        run, rest = load_run(folder), list(words[1:])
        shard = _taken(rest, "--shard")
        path = folder.parents[1] / run.paths.tokens("train", shard)
        place = Path(run.target)
        inside = folder.parents[1] / place  # of the demo, whose target is the run's own
        target = str(inside) if not run.external.target and inside.is_dir() else run.target
        trusted = ["--trust-remote-code"] if run.config.target.trust_remote_code else []
        words = [str(path), "--target", target, *trusted, *rest]
    return call.call("workflow_scripts.show_masks", words)


def _taken(words: list[str], option: str) -> int:
    """The number behind an option, which is removed with it; 0 without."""
    if option not in words:
        return 0
    place = words.index(option)
    number = "".join(words[place + 1 : place + 2])
    if not number.isdigit():
        raise click.UsageError(f"{option} needs a number")
    del words[place : place + 2]
    return int(number)


@click.command(
    context_settings=PASS_ON,
    options_metavar="[OPTIONS]",
    short_help="Measure a running server.",
)
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def serve_check(words: Sequence[str]) -> int:
    """Measure the acceptance length at a running SGLang or vLLM server.

    Options are those of workflow_scripts.measure_server: --url, --target, --prompts.
    """
    return call.call("workflow_scripts.measure_server", words)
