"""The command eagle3: its subcommands and exit codes. A user's error is printed as one sentence."""

from __future__ import annotations

import difflib
import sys
from importlib import import_module

import click

from eagle3 import __version__
from eagle3.errors import UserError

# subcommand -> module and attribute, in the order of a first run
COMMANDS = {
    "init": ("init", "init"),
    "plan": ("jobs", "plan"),
    "train": ("jobs", "train"),
    "prepare-data": ("jobs", "prepare_data"),
    "capture": ("jobs", "capture"),
    "export": ("jobs", "export"),
    "evaluate": ("jobs", "evaluate"),
    "status": ("status", "status"),
    "runs": ("runs", "runs"),
    "masks": ("scripts", "masks"),
    "serve-check": ("scripts", "serve_check"),
    "export-states": ("states", "export_states"),
}
FAULT, USAGE, INTERRUPTED = 1, 2, 130


class LazyGroup(click.Group):
    """A group that imports a subcommand only when it is used, so that --help stays fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, name = COMMANDS[cmd_name]
        command: click.Command = getattr(import_module(f"eagle3.cli.{module}"), name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            close = difflib.get_close_matches(name, COMMANDS, n=1)
            hint = f"did you mean {close[0]}?" if close else f"choose from {', '.join(COMMANDS)}"
            raise click.UsageError(f"there is no command {name!r}; {hint}")
        return super().resolve_command(ctx, args)


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="eagle3")
def eagle3() -> None:
    """Train an EAGLE-3 draft for your model, from its hidden states on disk.

    \b
        eagle3 init models/my-llama chats.jsonl     write a configuration
        eagle3 plan --configfile my-llama-chats.yaml
        eagle3 train --configfile my-llama-chats.yaml
        eagle3 status
    """


def main() -> None:
    """Run the command line and end the process."""
    arguments = sys.argv[1:] or ["--help"]
    try:
        code = eagle3.main(arguments, prog_name="eagle3", standalone_mode=False)
    except UserError as fault:
        _end(str(fault), FAULT)
    except click.exceptions.NoArgsIsHelpError as fault:  # `eagle3 runs`
        print(fault.message, file=sys.stderr)
        sys.exit(USAGE)
    except click.ClickException as fault:
        _end(_sentence(fault), USAGE)
    except (click.Abort, KeyboardInterrupt):
        _end("stopped by Ctrl-C", INTERRUPTED)
    except BrokenPipeError:  # `eagle3 runs list | head`
        sys.stderr.close()
        sys.exit(FAULT)
    except OSError as fault:
        _end(f"{fault.filename or 'a file'}: {fault.strerror or fault}", FAULT)
    sys.exit(code if isinstance(code, int) else 0)


def _sentence(fault: click.ClickException) -> str:
    """The message of click, and which help to read."""
    context = getattr(fault, "ctx", None)
    where = f" (see {context.command_path} --help)" if context else ""
    text = fault.format_message().rstrip(".").replace("\n", " ")
    return f"{text[:1].lower()}{text[1:]}{where}"


def _end(sentence: str, code: int) -> None:
    print(f"error: {sentence}", file=sys.stderr)
    sys.exit(code)
