"""What every script shares: plain log lines, and one sentence instead of a traceback."""

from __future__ import annotations

import logging
import os
import re
import sys
from argparse import Action, ArgumentParser, Namespace
from collections.abc import Callable
from typing import Any

from eagle3.artifact import Settings
from eagle3.features.source import Address, address
from workflow_scripts.ending import OneSentence

RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


def parser(description: str | None) -> ArgumentParser:
    """A parser with the option that every rule passes."""
    made = ArgumentParser(description=description)
    made.add_argument("--settings", type=Settings.parse, required=True, help="from the rule")
    return made


class Files(Action):
    """Files or objects. `shard-{00000..01999}` stands for two thousand of them: a shell command
    may have 128 KiB on Linux."""

    def __call__(self, parser: Any, given: Namespace, values: Any, option: Any = None) -> None:
        setattr(given, self.dest, [path for value in values for path in numbered(value)])


def numbered(text: str) -> list[Address]:
    """The files that a text with or without a range stands for, in order."""
    found = RANGE.search(text)
    if found is None:
        return [address(text)]
    first, last = found.groups()
    before, after = text[: found.start()], text[found.end() :]
    numbers = range(int(first), int(last) + 1)
    return [address(f"{before}{number:0{len(first)}d}{after}") for number in numbers]


def run(main: Callable[[], None]) -> None:
    """Run a script's main. What the user can mend ends it with one sentence and exit code 1, Ctrl-C
    with one and 130 (see `ending`)."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(message)s",
        datefmt="%Y-%m-%d %H:%M:%S",
    )
    logging.raiseExceptions = False  # a line that finds no room in the log is lost without a fuss
    for chatty in ("httpx2", "filelock", "matplotlib", "datasets", "boto3", "botocore"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    with OneSentence():
        main()
