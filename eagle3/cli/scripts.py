"""Subcommands that call a script of the project with all its options."""

from __future__ import annotations

from collections.abc import Sequence

import click

from eagle3.cli import call


def _command(name: str, script: str, summary: str) -> click.Command:
    """A subcommand that passes everything on, `--help` too."""

    @click.command(
        name,
        context_settings={"ignore_unknown_options": True, "help_option_names": []},
        short_help=summary,
    )
    @click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
    def command(arguments: Sequence[str]) -> int:
        return call.call(f"workflow_scripts.{script}", arguments)

    return command


masks = _command("masks", "show_masks", "Show supervised tokens in colour.")
serve_check = _command("serve-check", "measure_server", "Measure acceptance on a running server.")
