"""What every script shares: plain log lines, and one sentence instead of a traceback."""

from __future__ import annotations

import logging
import os
import sys
from argparse import ArgumentParser
from collections.abc import Callable

from eagle3.artifact import Settings
from eagle3.errors import UserError


def parser(description: str | None) -> ArgumentParser:
    """A parser with the option that every rule passes."""
    made = ArgumentParser(description=description)
    made.add_argument("--settings", type=Settings.parse, required=True, help="from the rule")
    return made


def run(main: Callable[[], None]) -> None:
    """Run a script's main; a UserError ends it with its sentence and exit code 1."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(message)s",
        datefmt="%Y-%m-%d %H:%M:%S",
    )
    for chatty in ("httpx", "filelock", "matplotlib", "datasets", "boto3", "botocore"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    try:
        main()
    except UserError as fault:
        print(f"error: {fault}", file=sys.stderr)
        sys.exit(1)
