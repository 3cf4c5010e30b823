"""Servers of real engines, over HTTP."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from eagle3.errors import UserError
from eagle3.evaluation.http import get
from tests.builders.ports import held_port
from tests.builders.processes import kill_group
from tests.builders.waiting import wait_for

STARTS = 900.0  # seconds, at most, until a server answers


@contextmanager
def real_server(command: Sequence[str], arguments: Mapping[str, Any]) -> Iterator[str]:
    """The address of a server in a process group of its own, up; it is killed afterwards.

    `arguments` are options by their Python names; True stands for an option without a value.
    """
    words = list(command)
    for name, value in arguments.items():
        words += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    with held_port() as port:
        url = f"http://127.0.0.1:{port}"
        process = subprocess.Popen([*words, "--port", str(port)], start_new_session=True)

        def up() -> bool:
            try:
                return get(f"{url}/health") is not None
            except UserError:
                return False

        def over() -> str | None:
            return None if process.poll() is None else f"it ended with {process.returncode}"

        try:
            wait_for(up, f"the server at {url}", limit=STARTS, hopeless=over)
            yield url
        finally:
            kill_group(process)
